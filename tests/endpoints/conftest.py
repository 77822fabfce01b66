"""A fake server, and a manifest that asks it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from opendllm.core.experiment import Stage, run_experiment
from opendllm.core.manifest.experiment_manifest import experiment_of
from opendllm.registries.discovery import installed_plugins

from .fake_server import FakeServer, serving

REPOSITORY = Path(__file__).parents[2]
PROBLEMS = REPOSITORY / "tests" / "benchmarks" / "problems"
HUMANEVAL = {"benchmark": {"name": "humaneval", "options": {"problems": str(PROBLEMS / "humaneval.jsonl")}}}
"""Four prompts to go on from; what is written is kept, and not run."""
INSTRUCTED = {
    "benchmark": {
        "name": "humaneval",
        "options": {"problems": str(PROBLEMS / "humaneval.jsonl"), "protocol": "instruct"},
    }
}
"""The same as instructions, which a chat answers."""
INFILLING: dict[str, dict[str, Any]] = {
    "benchmark": {
        "name": "humaneval-infilling",
        "options": {"problems": str(PROBLEMS / "humaneval-infilling.jsonl"), "lengths": ["oracle", 4, 8]},
    }
}


@dataclass(frozen=True)
class Evaluated:
    """A variant's folder after an evaluation."""

    folder: Path

    def samples(self, label: str = "humaneval") -> list[dict[str, Any]]:
        """The lines of its samples file."""
        lines = (self.folder / "samples" / f"{label}.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]

    def texts(self, label: str = "humaneval") -> list[tuple[str, str, int, str, Any, Any]]:
        """What was answered, without what hangs on the clock."""
        return [
            (s["task_id"], s["setting"], s["sample"], s["text"], s.get("ended"), s.get("failure"))
            for s in self.samples(label)
        ]

    def about(self, label: str = "humaneval") -> dict[str, Any]:
        """What is said of its samples."""
        content: dict[str, Any] = json.loads((self.folder / "samples" / f"{label}.about.json").read_text())
        return content

    def result(self, label: str) -> dict[str, Any]:
        """A benchmark's result."""
        content: dict[str, Any] = json.loads((self.folder / "results" / f"{label}.json").read_text())
        return content


Evaluate = Callable[..., Evaluated]


@pytest.fixture
def server() -> Iterator[FakeServer]:
    """A server that answers everything, until a test says otherwise."""
    with serving() as found:
        yield found


@pytest.fixture
def evaluate(server: FakeServer, tmp_path: Path) -> Evaluate:
    """Ask the server; `model` and the rest lie over what the manifest says."""

    def ask(
        model: Mapping[str, Any] | None = None,
        entry: Mapping[str, Any] = HUMANEVAL,
        folder: str = "run",
        stages: Sequence[Stage] = ("evaluate",),
        limit: int | None = None,
        **others: Any,
    ) -> Evaluated:
        quick = {"attempts": 3, "first_delay": 0.001}
        manifest = {
            "name": "served",
            "output": str(tmp_path / folder),
            "model": {"endpoint": server.url, "model": "tiny", "retries": quick, **(model or {})},
            "generate": {"max_new_tokens": 12, "temperature": 0.5},
            "evaluate": [entry],
            **others,
        }
        experiment = experiment_of(manifest, "a test", "served", installed_plugins())
        run_experiment(experiment, stages, limit=limit)
        return Evaluated(tmp_path / folder / "served")

    return ask
