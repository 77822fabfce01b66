"""A server from the command line: killed and gone on with, without a manifest, and left alone until asked."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from opendllm.core.cli.main import main

from .conftest import PROBLEMS, Evaluated
from .fake_server import Asked, FakeServer, Reply, completion, prompts

Platform = Callable[..., subprocess.CompletedProcess[str]]
BEFORE_THE_KILL = 5


def manifest(server: FakeServer, folder: Path, **model: Any) -> Path:
    """Sixteen requests, two at once."""
    path = folder / "served.yaml"
    content = {
        "name": "served",
        "output": str(folder / "run"),
        "model": {
            "endpoint": server.url,
            "model": "tiny",
            "concurrency": 2,
            "retries": {"attempts": 2, "first_delay": 0.001},
            **model,
        },
        "evaluate": [
            {
                "benchmark": {
                    "name": "humaneval",
                    "options": {"problems": str(PROBLEMS / "humaneval.jsonl")},
                },
                "samples_per_task": 4,
            }
        ],
    }
    path.write_text(json.dumps(content))
    return path


def test_a_killed_run_asks_only_for_what_is_missing(server: FakeServer, tmp_path: Path) -> None:
    """And its answers are those of a run that nobody killed."""
    path = manifest(server, tmp_path)
    killed, arrived = threading.Event(), threading.Event()

    def answer(asked: Asked, before: int) -> Reply:
        if len(server.asked) <= BEFORE_THE_KILL or killed.is_set():
            return completion(asked)
        arrived.set()
        return Reply(b"", waits=killed)

    server.answering = answer
    command = [sys.executable, "-m", "opendllm.core", "run", str(path), "--progress", "none"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert arrived.wait(120)
    found = Evaluated(tmp_path / "run" / "default")
    while len(found.samples()) < BEFORE_THE_KILL - 1:  # one that waits may have overtaken another's answer
        assert process.poll() is None
    process.kill()
    process.communicate()
    killed.set()
    kept = len(found.samples())
    with (found.folder / "samples" / "humaneval.jsonl").open("a") as file:
        file.write('{"task_id": "HumanEval/')  # what a kill leaves of a line
    server.asked.clear()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(server.asked) == 16 - kept
    resumed = found.texts()
    whole = [sys.executable, "-m", "opendllm.core", "run", str(path), "--set", f"output={tmp_path / 'whole'}"]
    server.asked.clear()
    main_in_process(whole[3:])
    assert len(set(prompts(server.asked))) == 16
    assert Evaluated(tmp_path / "whole" / "default").texts() == resumed


def main_in_process(arguments: list[str]) -> int:
    """The command's exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["platform", *arguments])
        with pytest.raises(SystemExit) as left:
            main()
    return int(left.value.code or 0)


def test_a_fault_ends_the_command_with_one_line_and_code_2(
    server: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = manifest(server, tmp_path)
    server.answering = lambda asked, before: Reply({"error": {"message": "out of\nmemory"}}, 500)
    assert main_in_process(["run", str(path), "--progress", "none"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(
        f"error: tiny at {server.url} fails (500: out of), 2 times in a row; what was answered"
    )
    server.answering = lambda asked, before: completion(asked)
    assert main_in_process(["run", str(path), "--progress", "none"]) == 0


def test_evaluate_asks_a_server_without_a_manifest(
    server: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SERVER_TOKEN", "abc")
    asked = ["evaluate", "--endpoint", server.url, "--model", "tiny", "--benchmark", "stdlib-infilling"]
    options = ["problems=2", "fixed_lengths=[4]", "temperature=0.3", "concurrency=1", "extra_body={steps: 9}"]
    flags = [part for option in options for part in ("-o", option)]
    assert main_in_process([*asked, *flags, "--token-env", "SERVER_TOKEN", "--progress", "none"]) == 0
    assert "exact_match_length-4" in capsys.readouterr().out
    assert [each.body["steps"] for each in server.asked] == [9, 9]
    assert {each.body["temperature"] for each in server.asked} == {0.3}
    found = Evaluated(tmp_path / "runs" / "evaluation-of-tiny" / "endpoint")
    assert found.result("stdlib-infilling")["speed"]["texts"] == 2


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "give a checkpoint, or a server's --endpoint and its --model"),
        (["--endpoint", "http://x"], "give a checkpoint, or a server's --endpoint and its --model"),
        (["--model", "tiny"], "give a checkpoint, or a server's --endpoint and its --model"),
        (["somewhere", "--endpoint", "http://x"], "--endpoint has no effect where a checkpoint is evaluated"),
        (
            ["--endpoint", "http://x", "--model", "m", "--sampler", "p2"],
            "--sampler has no effect where a server decodes",
        ),
        (
            ["--endpoint", "http://x", "--model", "m", "-o", "steps=4"],
            "-o steps: neither the server's API nor humaneval has such an option: known: api, ",
        ),
        (
            ["--endpoint", "http://x", "--model", "m", "-o", "likelihood_draws=4"],
            "-o likelihood_draws: neither the server's API nor humaneval has such an option",
        ),
        (["--endpoint", "http://x", "--model", "m", "--chat"], "write -o api=chat"),
        (
            ["--endpoint", "http://x", "--model", "m", "-o", "concurency=4"],
            "did you mean 'concurrency'?; what only this server knows goes into extra_body",
        ),
        (["--endpoint", "ftp://x", "--model", "m"], "endpoint: should begin with http:// or https://"),
        (["--endpoint", "http://me:secret@x", "--model", "m"], "endpoint: has a name or password in it"),
        (["--endpoint", "http://x?key=secret", "--model", "m"], "endpoint: has a `?` or `#`"),
        (
            ["--endpoint", "http://x", "--model", "m", "--token-env", "sk-secret"],
            "token_env: name an environment",
        ),
    ],
)
def test_what_makes_no_sense_is_one_line(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main_in_process(["evaluate", *arguments, "--benchmark", "humaneval"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert named in line
    assert "likelihood_estimator" not in line
    assert "secret" not in line


def test_planning_and_checking_ask_nothing(
    server: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SERVER_TOKEN", raising=False)
    path = str(manifest(server, tmp_path, token_env="SERVER_TOKEN"))
    for command in (["validate", path], ["plan", path], ["plan", path, "--json"]):
        assert main_in_process(command) == 0
    shown = capsys.readouterr().out
    assert f"what tiny at {server.url} takes for 16 requests, at most 1,024 tokens written" in shown
    assert "missing       the environment variable SERVER_TOKEN, with the server's token" in shown
    assert server.all == []


def test_a_stop_ends_the_run_at_once(server: FakeServer, tmp_path: Path) -> None:
    """With requests under way that would never end."""
    path, never, arrived = manifest(server, tmp_path), threading.Event(), threading.Event()

    def hang(asked: Asked, before: int) -> Reply:
        arrived.set()
        return Reply(b"", waits=never)

    server.answering = hang
    command = [sys.executable, "-m", "opendllm.core", "run", str(path), "--progress", "none"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert arrived.wait(120)
    os.kill(process.pid, signal.SIGTERM)
    try:
        said, _ = process.communicate(timeout=50)
    finally:
        never.set()
        process.kill()
    assert process.returncode == 128 + signal.SIGTERM
    assert "stopped; what was finished is kept" in said


def test_a_variant_of_a_server_has_no_checkpoint_and_says_why(
    server: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main_in_process(["run", str(manifest(server, tmp_path)), "--progress", "none"]) == 0
    capsys.readouterr()
    assert main_in_process(["evaluate", str(tmp_path / "run" / "default"), "--benchmark", "perplexity"]) == 2
    said = capsys.readouterr().err
    assert f"holds no checkpoint: its answers are those of a server, tiny at {server.url}" in said


def test_a_resolved_manifest_asks_nothing_again(server: FakeServer, tmp_path: Path) -> None:
    assert main_in_process(["run", str(manifest(server, tmp_path)), "--progress", "none"]) == 0
    asked = len(server.all)
    resolved = tmp_path / "run" / "manifest.resolved.yaml"
    assert main_in_process(["run", str(resolved), "--progress", "none"]) == 0
    assert len(server.all) == asked
