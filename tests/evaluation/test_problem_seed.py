"""Repeating a variant under other seeds asks the same problems, so that its scores can be paired."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from opendllm.core.evaluation.score_samples import ScoringJob, score_samples
from opendllm.core.experiment import run_experiment
from opendllm.core.manifest.experiment_manifest import read_experiment
from opendllm.registries.discovery import installed_plugins

MANIFEST = """
name: seeded
model: {backbone: {name: llada}}
data:
  corpus: {name: text-files, options: {train: a.py, held_out: "held*.py"}}
  tokenizer: {train: {vocab_size: 280}}
  sequence_length: 64
generate: {steps: 4, temperature: 0.9, sampler: {name: low-confidence}}
seeds: [0, 1]
evaluate:
  - {benchmark: {name: perplexity}, likelihood_draws: 1}
  - {benchmark: {name: perplexity}, likelihood_draws: 1, label: other-excerpts, problem_seed: 7}
  - {benchmark: {name: stdlib-infilling, options: {problems: 3, fixed_lengths: [8], context_lines: 1}}}
"""


@pytest.fixture(scope="module")
def variants(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The folders of both seeds."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("seeded")
        patch.chdir(folder)
        for name in ("a", "held_1", "held_2"):
            lines = [f"def {name}_{n}(x):\n    return x + {n}\n" for n in range(40)]
            (folder / f"{name}.py").write_text("\n".join(lines))
        (folder / "seeded.yaml").write_text(MANIFEST)
        run_experiment(read_experiment(Path("seeded.yaml"), (), installed_plugins()))
    return [folder / "runs" / "seeded" / f"default-seed-{seed}" for seed in (0, 1)]


def lines(variant: Path, label: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (variant / "samples" / f"{label}.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("label", "asked", "answered"),
    [
        ("perplexity", ("task_id", "request"), "log_likelihood"),
        ("stdlib-infilling", ("task_id", "setting", "prefix", "suffix"), "tokens"),
    ],
)
def test_every_seed_is_asked_the_same_and_answers_in_its_own_way(
    variants: list[Path], label: str, asked: tuple[str, ...], answered: str
) -> None:
    first, second = (lines(variant, label) for variant in variants)
    assert [[line[key] for key in asked] for line in first] == [
        [line[key] for key in asked] for line in second
    ]
    assert [line[answered] for line in first] != [line[answered] for line in second]


def test_another_problem_seed_asks_otherwise(variants: list[Path]) -> None:
    asked = [
        [line["request"] for line in lines(variants[0], name)] for name in ("perplexity", "other-excerpts")
    ]
    assert asked[0] != asked[1]


def test_mean_and_deviation_are_over_seeds_of_the_same_tasks(variants: list[Path]) -> None:
    found = [json.loads((variant / "results" / "perplexity.json").read_text()) for variant in variants]
    assert found[0]["per_task"].keys() == found[1]["per_task"].keys()
    values = [result["metrics"]["perplexity"]["value"] for result in found]
    results = json.loads((variants[0].parent / "results.json").read_text())
    (repeated,) = results["repeats"].values()
    mean = repeated["benchmarks"]["perplexity"]["perplexity"]
    assert mean["mean"] == pytest.approx(sum(values) / 2)
    assert mean["standard_deviation"] == pytest.approx(abs(values[0] - values[1]) / 2**0.5)


def test_a_runs_own_samples_are_scored_against_the_same_problems(
    variants: list[Path], tmp_path: Path
) -> None:
    variant = variants[1]
    samples = variant / "samples" / "stdlib-infilling.jsonl"
    job = ScoringJob("stdlib-infilling", samples, {}, output=tmp_path / "again.json")
    scored = score_samples(installed_plugins(), job, None)
    assert scored.samples.issues == []
    before = json.loads((variant / "results" / "stdlib-infilling.json").read_text())
    again = json.loads((tmp_path / "again.json").read_text())
    assert again["per_task"] == before["per_task"]
    assert again["metrics"] == before["metrics"]
