"""Two processes: what one computes, shared out, and one report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

EVALUATE = """evaluate=[
    {benchmark: {name: perplexity}, likelihood_draws: 4},
    {benchmark: {name: stdlib-infilling, options: {problems: 6, fixed_lengths: [8], context_lines: 1}}}]"""
TIMED = {"tokens_per_second", "seconds", "peak_memory_bytes", "processes"}


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def assert_alike(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Numbers with fractions closely, everything else exactly; how long it took may differ."""
    assert ours.keys() == theirs.keys()
    for key in ours.keys() - TIMED:
        close = isinstance(theirs[key], float)
        assert ours[key] == (pytest.approx(theirs[key], rel=1e-4, abs=1e-6) if close else theirs[key]), key


def results(path: Path) -> dict[str, dict[str, float]]:
    metrics: dict[str, dict[str, float]] = json.loads(path.read_text())["metrics"]
    return metrics


@pytest.mark.slow
def test_two_processes_compute_what_one_does_and_report_once(commands: Any, workspace: Path) -> None:
    for number in range(5):
        text = f"def held_{number}(x):\n    y = x * {number}\n    return y - {number}\n"
        (workspace / "texts" / f"held{number}.py").write_text(text * 4)
    for ranks, output, launcher in ((2, "both", ["--launcher", "torchrun"]), (1, "alone", [])):
        settings = [EVALUATE, "generate={steps: 4, temperature: 0.9}", f"output={output}"]
        # Clipped by the norm of both processes' gradients: most steps' is larger.
        settings += ["data.contamination=6", "train.gradient_clipping=0.5"]
        settings.append("train.deepspeed={zero_optimization: {stage: 2}}")
        arguments = ["run", "short.yaml", *(f"--set={setting}" for setting in settings), *launcher]
        done = commands.run(*arguments, cwd=workspace, ranks=ranks)
        assert done.codes == [0] * ranks, done.said
        assert done.said.count("report: ") == 1
    both, alone = (workspace / output / "default" for output in ("both", "alone"))
    overlap = [
        json.loads((run.parent / "contamination.json").read_text())["corpora"] for run in (both, alone)
    ]
    assert overlap[0][0] | {"seconds": 0} == overlap[1][0] | {"seconds": 0}  # by the first, the other waits
    held_out_too = 7  # before the first of six steps
    assert len(lines(both / "train.jsonl")) == held_out_too
    for ours, theirs in zip(*(lines(run / "train.jsonl") for run in (both, alone)), strict=True):
        assert_alike(ours, theirs)
    assert max(line.get("gradient_norm", 0) for line in lines(alone / "train.jsonl")) > 0.5
    model = Path("checkpoints", "step-6", "model", "model.safetensors")
    # Gradients are added up in another order.
    torch.testing.assert_close(load_file(both / model), load_file(alone / model), rtol=0, atol=1e-5)
    for benchmark, asked in (("perplexity", 6), ("stdlib-infilling", 12)):
        samples = Path("samples", f"{benchmark}.jsonl")
        assert len(lines(both / samples)) == asked
        for ours, theirs in zip(lines(both / samples), lines(alone / samples), strict=True):
            assert_alike(ours, theirs)
        ours, theirs = (results(run / "results" / f"{benchmark}.json") for run in (both, alone))
        assert ours.keys() == theirs.keys()
        for metric, interval in ours.items():
            assert_alike(interval, theirs[metric])


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc")
def test_what_the_first_process_prepared_is_what_all_read(commands: Any, workspace: Path) -> None:
    """Also where a corpus's files look different from another process, as they may from another machine."""
    own = "data.corpus.options={train: /proc/self/stat, held_out: /proc/self/stat}"
    arguments = ["run", "short.yaml", "--only", "train", "--set", own, "--set", "train.steps=1"]
    done = commands.run(*arguments, cwd=workspace, ranks=2)
    assert done.codes == [0, 0], done.said
    assert len(list((workspace / "runs" / "short" / "data").glob("tokens-*"))) == 1
