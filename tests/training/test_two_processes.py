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
