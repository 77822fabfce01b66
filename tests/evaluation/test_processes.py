"""Real processes: several share an evaluation, and any of them may be killed at any time."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

MANIFEST = """
name: shared
model: {backbone: {name: llada}}
data:
  corpus: {name: text-files, options: {train: "texts/a*.py", held_out: "texts/held*.py"}}
  tokenizer: {train: {vocab_size: 280}}
  sequence_length: 64
generate: {steps: 8, temperature: 0.9, sampler: {name: low-confidence}}
evaluate:
  - benchmark: {name: stdlib-infilling, options: {problems: 6, fixed_lengths: [8], context_lines: 1}}
    samples_per_task: 2
    batch_size: 4
  - {benchmark: {name: perplexity}, likelihood_draws: 1}
"""
TWO = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ANSWERS = 24


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose run has a model, and no answers yet."""
    folder = tmp_path_factory.mktemp("untouched")
    (folder / "texts").mkdir()
    for name in ("a0", "a1", "held"):
        (folder / "texts" / f"{name}.py").write_text(f"def {name}(x):\n    return x + 1\n" * 4)
    (folder / "shared.yaml").write_text(MANIFEST)
    done = start(folder, [], "--only", "train")
    assert done.wait() == 0
    return folder


@pytest.fixture(scope="module")
def alone(untouched: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[Any, Any]:
    """What one process answers that nobody disturbs."""
    folder = copied(untouched, tmp_path_factory.mktemp("alone"))
    assert start(folder, []).wait() == 0
    return answers(folder)


def copied(source: Path, target: Path) -> Path:
    return Path(shutil.copytree(source, target / "work"))


def start(folder: Path, launcher: list[str], *more: str) -> subprocess.Popen[bytes]:
    """In a process group of its own, which can be killed as a whole."""
    return subprocess.Popen(
        [sys.executable, *launcher, "-m", "opendllm.core", "run", "shared.yaml", *more],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def samples(folder: Path) -> Path:
    return folder / "runs" / "shared" / "default" / "samples" / "stdlib-infilling.jsonl"


def answers(folder: Path) -> dict[Any, Any]:
    """Every answer by its key; none is there twice, and no part of a file is left."""
    lines = [json.loads(line) for line in samples(folder).read_text().splitlines()]
    found = {(line["task_id"], line["setting"], line["sample"]): line for line in lines}
    assert len(found) == len(lines) == ANSWERS
    assert not list(samples(folder).parent.glob("*.part-*"))
    return {key: (line["text"], line["tokens"], line["digest"]) for key, line in found.items()}


def lines_on_file(folder: Path) -> int:
    found = 0
    for path in samples(folder).parent.glob("stdlib-infilling.jsonl*"):
        with suppress(FileNotFoundError):  # merged a moment ago
            found += path.read_bytes().count(b"\n")
    return found


def wait_for(folder: Path, process: subprocess.Popen[bytes], lines: int) -> None:
    """Until so many answers are on file; it may be done by then."""
    deadline = time.monotonic() + 120
    while process.poll() is None and lines_on_file(folder) < lines:
        assert time.monotonic() < deadline
        time.sleep(0.002)


def children(process: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def kill(process: subprocess.Popen[bytes]) -> None:
    """And the processes that a launcher has started in sessions of their own."""
    ranks = children(process.pid)
    os.killpg(process.pid, signal.SIGKILL)
    for rank in ranks:
        with suppress(ProcessLookupError):
            os.kill(rank, signal.SIGKILL)
    process.wait()
    while any(Path(f"/proc/{rank}/cwd").exists() for rank in ranks):
        time.sleep(0.01)


def kill_one_of_two(launcher: subprocess.Popen[bytes]) -> None:
    """The launcher ends the other one."""
    os.kill(children(launcher.pid)[-1], signal.SIGKILL)
    assert launcher.wait(timeout=60) != 0


@pytest.mark.slow
def test_two_processes_give_the_answers_of_one_and_report_once(
    untouched: Path, alone: dict[Any, Any], tmp_path: Path
) -> None:
    folder = copied(untouched, tmp_path)
    assert start(folder, TWO, "--set", "evaluate.0.batch_size=1").wait() == 0
    assert answers(folder) == alone
    results = folder / "runs" / "shared" / "default" / "results"
    assert {path.name for path in results.iterdir()} == {"stdlib-infilling.json", "perplexity.json"}
    assert (folder / "runs" / "shared" / "report.html").exists()


@pytest.mark.slow
def test_killed_at_any_time_nothing_is_lost_doubled_or_changed(
    untouched: Path, alone: dict[Any, Any], tmp_path: Path
) -> None:
    folder = copied(untouched, tmp_path)
    one_by_one = ("--set", "evaluate.0.batch_size=1")
    process = start(folder, [], *one_by_one)
    wait_for(folder, process, 1)
    kill(process)
    process = start(folder, TWO, *one_by_one)
    wait_for(folder, process, lines_on_file(folder) + 4)
    kill_one_of_two(process)
    with samples(folder).open("a") as file:  # what a kill in the middle of a line leaves
        file.write('\n{"task_id": "cut sho')
    kept = samples(folder).read_text().splitlines()[:-2]
    process = start(folder, TWO, *one_by_one)
    wait_for(folder, process, lines_on_file(folder) + 2)
    kill(process)
    assert start(folder, []).wait() == 0
    assert answers(folder) == alone
    assert set(kept) <= set(samples(folder).read_text().splitlines())
