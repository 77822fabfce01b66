"""experiments/gpu-comparison.yaml in small: what runs on a GPU for minutes runs here with a nano model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

MANIFEST = "experiments/gpu-comparison.yaml"
SMALL = {
    "model.backbone.options.preset": "nano",
    "data.tokenizer.train.vocab_size": "320",
    "data.corpus.options.packages": "[pluggy]",
    "data.sequence_length": "64",
    "train.steps": "4",
    "train.global_batch_size": "4",
    "train.compile": "false",
    "train.held_out.rows": "2",
    "output": "small",
}


def platform(*arguments: str, cwd: Path) -> str:
    command = [sys.executable, "-m", "opendllm.core", *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_its_recipes_have_one_size_and_read_as_many_tokens(repository: Path, tmp_path: Path) -> None:
    said = platform("plan", str(repository / MANIFEST), "--json", cwd=tmp_path)
    variants = json.loads(said)["variants"]
    assert set(variants) == {"open-dcoder", "llada", "dream", "mdlm", "sdar", "autoregressive"}
    sizes = {name: found["parameters"] for name, found in variants.items()}
    assert all(abs(size / 60e6 - 1) < 0.01 for size in sizes.values()), sizes
    assert {found["training"]["tokens"] for found in variants.values()} == {600 * 32 * 1024}
    for found in variants.values():
        assert all(evaluation["seconds"] for evaluation in found["evaluations"].values())


@pytest.mark.slow
def test_it_runs_to_its_report(repository: Path, tmp_path: Path) -> None:
    problems = repository / "tests" / "benchmarks" / "problems" / "humaneval-infilling.jsonl"
    overrides = SMALL | {"evaluate.2.benchmark.options.problems": str(problems)}
    settings = [word for key, value in overrides.items() for word in ("--set", f"{key}={value}")]
    chosen = ["--variant", "sdar", "--limit", "2"]
    platform("run", str(repository / MANIFEST), *chosen, *settings, cwd=tmp_path)
    folder = tmp_path / "small" / "sdar" / "results"
    results = {path.stem: json.loads(path.read_text()) for path in folder.iterdir()}
    assert set(results) == {"perplexity", "stdlib-infilling", "humaneval-infilling"}
    assert "pass@1_oracle" in results["humaneval-infilling"]["metrics"]
    assert results["stdlib-infilling"]["speed"]["tokens_per_forward_pass"]
    assert (tmp_path / "small" / "report.html").is_file()
