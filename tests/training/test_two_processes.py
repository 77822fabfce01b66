"""Two processes: the same losses as one, one set of answers and one report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.slow
def test_two_processes_compute_what_one_does_and_report_once(
    commands: Any, workspace: Path, curve: Callable[[Path], list[float]]
) -> None:
    evaluate = "evaluate=[{benchmark: {name: perplexity}, likelihood_draws: 1}]"
    for ranks, output, launcher in ((2, "both", ["--launcher", "torchrun"]), (1, "alone", [])):
        arguments = ["run", "short.yaml", "--set", evaluate, "--set", f"output={output}", *launcher]
        done = commands.run(*arguments, cwd=workspace, ranks=ranks)
        assert done.codes == [0] * ranks, done.said
        assert done.said.count("report: ") == 1
    assert curve(workspace / "both") == pytest.approx(curve(workspace / "alone"), rel=1e-5)
    answers = [
        (workspace / output / "default" / "samples" / "perplexity.jsonl").read_text().splitlines()
        for output in ("both", "alone")
    ]
    assert len(answers[0]) == len(answers[1]) > 0


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc")
def test_what_the_first_process_prepared_is_what_all_read(commands: Any, workspace: Path) -> None:
    """Also where a corpus's files look different from another process, as they may from another machine."""
    own = "data.corpus.options={train: /proc/self/stat, held_out: /proc/self/stat}"
    arguments = ["run", "short.yaml", "--only", "train", "--set", own, "--set", "train.steps=1"]
    done = commands.run(*arguments, cwd=workspace, ranks=2)
    assert done.codes == [0, 0], done.said
    assert len(list((workspace / "runs" / "short" / "data").glob("tokens-*"))) == 1
