"""results/BENCHMARK.json: an evaluation, as reports read it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from opendllm.core.evaluation.evaluation import Evaluation
from opendllm.core.foundation.atomic_files import write_json
from opendllm.core.foundation.json_objects import read_json_object
from opendllm.registries.benchmarks import Benchmark, Metric
from opendllm.registries.errors import UserError


def write_result(path: Path, benchmark: Benchmark, evaluation: Evaluation, about: Mapping[str, Any]) -> None:
    """Write results/BENCHMARK.json; an earlier file stays until this one is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scores = evaluation.scores
    assert scores is not None
    before = _speed_on_file(path)
    memory = evaluation.peak_memory_bytes
    if memory is None:
        memory = before.get("peak_memory_bytes")
    batch_size = before.get("batch_size") if evaluation.batch_size is None else evaluation.batch_size
    graphs = before.get("graphs") if evaluation.graphs is None else asdict(evaluation.graphs)
    write_json(
        path,
        {
            **about,
            "metrics": {name: _metric(metric) for name, metric in scores.metrics.items()},
            "headline": [name for name in benchmark.headline if name in scores.metrics],
            "lower_is_better": sorted(benchmark.lower_is_better),
            "per_task": {task: dict(values) for task, values in scores.per_task.items()},
            "verdicts": [[*key, reason] for key, reason in scores.verdicts.items()],
            "notes": list(scores.notes),
            "unasked": dict(evaluation.unasked),
            "speed": {
                "tokens_per_second": evaluation.tokens_per_second,
                "forward_passes": evaluation.forward_passes,
                "tokens_per_forward_pass": evaluation.tokens_per_forward_pass,
                "seconds": evaluation.seconds,
                "texts": evaluation.texts,
                "tokens": evaluation.tokens,
                "peak_memory_bytes": memory,
                "batch_size": batch_size,
                **({} if graphs is None else {"graphs": graphs}),
            },
        },
    )


def _metric(metric: Metric) -> dict[str, Any]:
    return {name: value for name, value in asdict(metric).items() if value is not None}


def _speed_on_file(result: Path) -> dict[str, Any]:
    """Of when the answers were given, as an earlier result says it."""
    with suppress(UserError):
        speed = read_json_object(result, optional=True).get("speed")
        return speed if isinstance(speed, dict) else {}
    return {}
