"""`--progress` and `status`: a run that is watched without a terminal, and from elsewhere."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from opendllm.core.run.status import RunStatus, run_status

Here = Callable[..., tuple[Any, str, str]]


def test_a_run_without_a_terminal_says_what_it_does(finished: Path) -> None:
    lines = (finished / "said.txt").read_text().splitlines()
    assert all(re.match(r"\[\d+:\d\d\] ", line) for line in lines)
    said = [line.split("] ", 1)[1] for line in lines]
    for expected in (
        "trained (1 of 2): importing libraries",
        "trained (1 of 2): preparing data",
        "trained (1 of 2): starting DeepSpeed",
        "trained (1 of 2): measuring the held-out loss",
        "trained (1 of 2): saving step 2",
        "other (2 of 2): evaluating perplexity",
        "writing the report",
    ):
        assert expected in said
    assert any(line.startswith("trained (1 of 2): training: 2 of 2 steps, loss ") for line in said)


def test_progress_as_json_and_none(workspace: Path, here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workspace)
    code, _, errors = here("run", "tiny.yaml", "--limit", "2", "--progress", "json")
    assert code == 0
    lines = [json.loads(line) for line in errors.splitlines()]
    assert {"loading the model", "evaluating perplexity", "writing the report"} <= {
        line["activity"] for line in lines
    }
    code, _, errors = here("run", "tiny.yaml", "--limit", "2", "--progress", "none")
    assert (code, errors) == (0, "")


def test_an_unknown_style_is_refused(refused: Callable[..., str]) -> None:
    assert "'rich', 'plain', 'json', 'none'" in refused("run", "x.yaml", "--progress", "loud")


def wait_for(folder: Path, reached: Callable[[RunStatus], bool]) -> RunStatus:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if (folder / "manifest.resolved.yaml").is_file() and reached(found := run_status(folder)):
            return found
        time.sleep(0.1)
    raise AssertionError("it never came so far")


def test_the_status_of_a_live_run_and_of_one_that_was_killed(
    untouched: Path, accepted: Callable[..., str]
) -> None:
    arguments = ("run", "tiny.yaml", "--only", "train", "--progress", "none")
    more = ("--set", "train.steps=100000", "--set", "train.checkpoint.every=null")
    command = [sys.executable, "-m", "opendllm.core", *arguments, *more]
    folder = untouched / "runs" / "tiny"
    run = subprocess.Popen(command, cwd=untouched, env=os.environ, stdout=subprocess.DEVNULL)
    try:
        found = wait_for(folder, lambda now: bool(now.progress.get("done")))
        assert found.state == "running"
        assert found.progress["process"] == run.pid
        assert (found.progress["activity"], found.progress["total"]) == ("training", 100000)
        shown = accepted("status", folder)
        assert f"running as process {run.pid} on " in shown
        assert re.search(r"trained \(1 of 2\): training: [\d,]+ of 100,000, .*loss \d", shown)
        assert "trained  no checkpoint; scored: nothing yet" in shown
    finally:
        run.kill()
        run.wait()
    assert run_status(folder).state == "stopped"
    assert "it was at trained (1 of 2): training" in accepted("status", folder)


def test_the_status_of_a_finished_run(finished: Path, accepted: Callable[..., str]) -> None:
    folder = finished / "runs" / "tiny"
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    shown = accepted("status", folder)
    assert f"{folder}: finished, heard of " in shown
    assert re.search(r"^  other +step 2 of 2 is saved; scored: perplexity$", shown, re.MULTILINE)
    assert json.loads(accepted("status", folder, "--json"))["state"] == "finished"
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


@pytest.mark.parametrize(
    ("ago", "shown"),
    [
        (11.0, "running as process 7 on elsewhere, heard of 0:11 ago\n  trained: compiling, for 15:11\n"),
        (121.0, "stopped, heard of 2:01 ago\n  it was at trained: compiling\n"),
    ],
)
def test_a_run_of_another_machine_goes_on_while_its_heart_beats(
    workspace: Path, accepted: Callable[..., str], monkeypatch: pytest.MonkeyPatch, ago: float, shown: str
) -> None:
    folder = workspace / "runs" / "tiny"
    said = {"process": 7, "host": "elsewhere", "updated": 1e9, "closed": False, "variant": "trained"}
    content = {**said, "activity": "compiling", "done": None, "total": None, "seconds": 900.0}
    (folder / "progress.json").write_text(json.dumps(content))
    monkeypatch.setattr("opendllm.core.run.status.time.time", lambda: 1e9 + ago)
    assert accepted("status", folder).startswith(f"{folder}: {shown}")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[1]",
        "{",
        '{"activity": "\\u001b[2Jtraining", "done": "x", "total": [], "updated": "y"}',
        '{"activity": "x", "done": 1, "total": 2, "updated": -Infinity, "seconds": NaN, "seconds_left": NaN}',
    ],
)
def test_a_damaged_progress_file_is_no_obstacle(
    workspace: Path, accepted: Callable[..., str], content: str
) -> None:
    folder = workspace / "runs" / "tiny"
    (folder / "progress.json").write_text(content)
    shown = accepted("status", folder)
    assert f"{folder}: stopped" in shown
    assert "\x1b" not in shown
    assert "step 2 of 2" in shown


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, refused: Callable[..., str]) -> None:
    assert "holds no manifest.resolved.yaml, so it is no run" in refused("status", tmp_path)
    assert "does not exist" in refused("status", tmp_path / "missing")
