r"""pass@k of programs that were written elsewhere, each run in the sandbox.

    python examples/score_samples.py

The problems are in HumanEval's form, the samples a line each, as any harness can write them. The same on the
command line:

    platform score --benchmark humaneval --problems problems.jsonl --samples samples.jsonl \
        --allow-code-execution
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from opendllm.core.evaluation.score_samples import ScoringJob, score_samples
from opendllm.registries.benchmarks import CodeExecution, Metric
from opendllm.registries.discovery import installed_plugins

PROBLEMS = [
    {
        "task_id": "mine/double",
        "prompt": 'def double(x):\n    """Twice x."""\n',
        "entry_point": "double",
        "canonical_solution": "    return 2 * x\n",
        "test": "def check(candidate):\n    assert candidate(3) == 6\n    assert candidate(-1) == -2\n",
    },
    {
        "task_id": "mine/last",
        "prompt": 'def last(items):\n    """The last of the items, or None."""\n',
        "entry_point": "last",
        "canonical_solution": "    return items[-1] if items else None\n",
        "test": "def check(candidate):\n    assert candidate([3]) == 3\n    assert candidate([]) is None\n",
    },
]
SAMPLES = [
    {"task_id": "mine/double", "completion": "    return x + x\n"},
    {"task_id": "mine/double", "completion": "    return x * x\n"},  # wrong
    {"task_id": "mine/last", "completion": "    return items[-1]\n"},  # raises for no items
    {"task_id": "mine/last", "completion": "    for item in items[::-1]:\n        return item\n"},
]


def write_lines(path: Path, records: Iterable[Mapping[str, str]]) -> Path:
    """JSON lines."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def main(folder: Path = Path()) -> Mapping[str, Metric]:
    """Score the samples; the metrics, with their intervals."""
    job = ScoringJob(
        benchmark="humaneval",
        samples=write_lines(folder / "samples.jsonl", SAMPLES),
        options={},
        problems=write_lines(folder / "problems.jsonl", PROBLEMS),
    )
    scored = score_samples(installed_plugins(), job, CodeExecution(), lambda done, wanted, passed: None)
    for name, metric in scored.scores.metrics.items():
        print(f"{name}: {metric.value:.3f} [{metric.low:.3f}, {metric.high:.3f}]")
    return scored.scores.metrics


if __name__ == "__main__":
    main()
