"""A small run folder, as `platform run` leaves it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

MANIFEST = """\
name: quickstart
description: Three recipes, one trainer
seed: 7
evaluate:
- benchmark: {name: stdlib-infilling}
- benchmark: {name: perplexity}
variants:
  zebra: {}
  llada: {}
"""


@dataclass
class FakeRun:
    """Writes a run's files."""

    folder: Path

    def manifest(self, text: str = MANIFEST) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "manifest.resolved.yaml").write_text(text)

    def variant(self, name: str, **identity: Any) -> None:
        content = {
            "variant": name,
            "seed": 7,
            "training_digest": "ab12cd34ef56ab78",
            "trained_in": name,
            "parameters": 812345,
            "backbone": "llada",
            "objective": "llada",
            "sampler": "low-confidence",
            "plugins": {"backbones/llada": "open-dllm 0.1.0"},
        }
        self._write(f"{name}/variant.json", json.dumps({**content, **identity}))

    def training(self, name: str, steps: int = 3, held_out: Sequence[float] = (6.3, 4.1)) -> None:
        lines: list[dict[str, float]] = [{"step": 0, "held_out_loss": held_out[0]}]
        for step in range(1, steps + 1):
            lines.append(
                {
                    "step": step,
                    "loss": 7.0 - step,
                    "learning_rate": 1e-4,
                    "tokens": 2048 * step,
                    "tokens_per_second": 1000.0 * step,
                    "gradient_norm": 1.2,
                    "seconds": 0.5,
                }
            )
        lines[-1]["held_out_loss"] = held_out[-1]
        self._write(f"{name}/train.jsonl", "".join(json.dumps(line) + "\n" for line in lines))

    def result(
        self,
        name: str,
        benchmark: str,
        metrics: Mapping[str, tuple[Any, ...]],
        **rest: Any,
    ) -> None:
        content = {
            "benchmark": benchmark,
            "variant": name,
            "seed": 7,
            "metrics": {
                metric: dict(zip(("value", "low", "high", "kind", "ratio"), given, strict=False))
                for metric, given in metrics.items()
            },
            "headline": list(metrics)[:1],
            "lower_is_better": [],
            "per_task": {},
            "notes": [],
            "settings": {"steps": 32},
            "provenance": {"manifest_digest": "0123456789abcdef"},
            "speed": {"tokens_per_second": 310.0, "forward_passes": 812, "seconds": 11.2},
        }
        self._write(f"{name}/results/{benchmark}.json", json.dumps({**content, **rest}))

    def sample(self, name: str, benchmark: str, **fields: Any) -> None:
        content = {
            "task_id": "t0",
            "setting": "oracle",
            "sample": 0,
            "prefix": "def f(x):\n    ",
            "suffix": "\n    return y",
            "text": f"y = {name}(x)",
            "reference": "y = x + 1",
            "forward_passes": 4,
            "seconds": 0.1,
        }
        path = self.folder / f"{name}/samples/{benchmark}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(json.dumps({**content, **fields}) + "\n")

    def trace(self, name: str, benchmark: str, **fields: Any) -> None:
        """Three masks: written, put in and taken out again, overwritten."""
        content = {
            "task_id": "t0",
            "setting": "oracle",
            "prompt": "def f(x):",
            "suffix": None,
            "text": " a b",
            "sampler": "low-confidence",
            "mask_token_id": 0,
            "vocabulary": {"0": "<mask>", "1": "def f(x):", "2": " a", "3": " b", "4": " c"},
            "forward_passes": 4,
            "start": [1, 0, 0, 0],
            "editable": [1, 2, 3],
            "steps": [
                {"commit": [[1, 2, 0.9], [2, 4, 0.2]]},
                {"remask": [2], "insert": [[4, 0, None]]},
                {"commit": [[2, 3, 0.7]], "edit": [[1, 4, 0.8]], "delete": [3, 4]},
                {"edit": [[1, 2, 1.0]]},
            ],
        }
        self._write(f"{name}/traces/{benchmark}.json", json.dumps({**content, **fields}))

    def infilling(self, name: str, accuracies: Mapping[str, float], value: float) -> None:
        """A result with a number for each task."""
        self.result(
            name,
            "stdlib-infilling",
            {"token_accuracy_oracle": (value, value - 0.1, value + 0.1), "parses_oracle": (0.9, 0.8, 1.0)},
            per_task={task: {"token_accuracy_oracle": number} for task, number in accuracies.items()},
            notes=["oracle: as many masks as the hidden line has tokens"],
        )

    def perplexity(self, name: str, value: float | None) -> None:
        spread = 0.0 if value is None else value / 10
        self.result(
            name,
            "perplexity",
            {"perplexity": (value, None if value is None else value - spread, value and value + spread)},
            lower_is_better=["perplexity"],
        )

    def _write(self, path: str, text: str) -> None:
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)


@pytest.fixture
def empty_run(tmp_path: Path) -> FakeRun:
    """A run folder with nothing in it but its manifest."""
    run = FakeRun(tmp_path / "runs" / "quickstart")
    run.manifest()
    return run


@pytest.fixture
def run(empty_run: FakeRun) -> FakeRun:
    """Two variants, trained and evaluated; the manifest's first one is last in the alphabet."""
    for name, accuracy, perplexity in (("zebra", 0.2, 88.0), ("llada", 0.6, 66.0)):
        empty_run.variant(name)
        empty_run.training(name)
        empty_run.infilling(name, {f"t{task}": accuracy for task in range(6)}, accuracy)
        empty_run.perplexity(name, perplexity)
        empty_run.sample(name, "stdlib-infilling")
    return empty_run
