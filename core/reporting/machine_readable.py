"""Renders results.json: everything in the report, for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

from opendllm.core.reporting.comparisons import Comparison
from opendllm.core.reporting.contamination_tables import read_contamination
from opendllm.core.reporting.parallelism import accuracy_metric, families, family_score
from opendllm.core.reporting.records import (
    BenchmarkResult,
    Curve,
    Estimate,
    RewardLog,
    Study,
    TrainingLog,
    Variant,
)
from opendllm.core.reporting.repeats import contenders


def render_json(study: Study, comparisons: Sequence[Comparison]) -> str:
    """Strict JSON; a number that was not measured is null."""
    content = {
        "name": study.name,
        "runs": [
            {"name": run.name, "description": run.description, "seeds": list(run.seeds), "digest": run.digest}
            for run in study.runs
        ],
        "variants": {variant.label: _variant(variant) for variant in study.variants},
        "repeats": _repeats(study),
        "published": _published(study),
        "contamination": {run.label or run.name: read_contamination(run.folder) for run in study.runs},
        "comparisons": [_comparison(comparison) for comparison in comparisons],
        "aup": _aup(study),
        "provenance": {
            "plugins": {variant.label: dict(variant.plugins) for variant in study.variants},
            "results": {
                variant.label: {name: dict(result.provenance) for name, result in variant.benchmarks.items()}
                for variant in study.variants
            },
        },
    }
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def _published(study: Study) -> list[dict[str, Any]]:
    """What the manifests quote, each entry once."""
    entries = [asdict(entry) for run in study.runs for entry in run.published]
    return [entry for number, entry in enumerate(entries) if entry not in entries[:number]]


def _aup(study: Study) -> list[dict[str, Any]]:
    """Accuracy under parallelism of the families that were decoded at several settings; null if undefined."""
    return [
        {
            "family": family.name,
            "benchmark": benchmark,
            "metric": metric,
            "variants": [variant.label for variant in family.variants],
            "aup": family_score(study, benchmark, metric, family),
        }
        for benchmark in study.benchmarks
        if (metric := accuracy_metric(study, benchmark)) is not None
        for family in families(study, benchmark)
    ]


def _variant(variant: Variant) -> dict[str, Any]:
    return {
        "identity": {
            "group": variant.group,
            "seed": variant.seed,
            "training_digest": variant.training_digest,
            "trained_in": variant.trained_in,
            "parameters": variant.parameters,
            "backbone": variant.backbone,
            "endpoint": variant.endpoint,
            "objective": variant.objective,
            "sampler": variant.sampler,
        },
        "training": _training(variant.training) if variant.training else None,
        "benchmarks": {name: _result(result) for name, result in variant.benchmarks.items()},
    }


def _training(log: TrainingLog) -> dict[str, Any]:
    first_loss, last_loss = _ends(log.loss)
    first_held_out_loss, last_held_out_loss = _ends(log.held_out_loss)
    return {
        "steps": log.steps,
        "first_loss": first_loss,
        "last_loss": last_loss,
        "first_held_out_loss": first_held_out_loss,
        "last_held_out_loss": last_held_out_loss,
        "tokens": log.tokens,
        "tokens_per_second": log.tokens_per_second,
        **({} if log.rewards is None else {"rewards": _rewards(log.rewards)}),
    }


def _rewards(log: RewardLog) -> dict[str, Any]:
    """Of a run that learnt from them, each figure's first and last value."""
    ends = {field.name: _ends(getattr(log, field.name)) for field in fields(log)}
    return {name: {"first": first, "last": last} for name, (first, last) in ends.items()}


def _comparison(comparison: Comparison) -> dict[str, Any]:
    paired = comparison.paired
    low, high = paired.interval
    return {
        "benchmark": comparison.benchmark,
        "metric": comparison.metric,
        "variant": comparison.variant,
        "baseline": comparison.baseline,
        "verdict": comparison.verdict,
        "why": comparison.why,
        "tasks": len(paired.tasks),
        "difference": paired.difference,
        "low": low,
        "high": high,
        "p_value": paired.p_value,
        "test": paired.test,
    }


def _ends(curve: Curve) -> tuple[float | None, float | None]:
    return (curve[0][1], curve[-1][1]) if curve else (None, None)


def _result(result: BenchmarkResult) -> dict[str, Any]:
    return {
        "benchmark": result.benchmark,
        "metrics": {name: _estimate(estimate) for name, estimate in result.metrics.items()},
        "headline": list(result.headline),
        "lower_is_better": sorted(result.lower_is_better),
        "tasks": len(result.per_task),
        "speed": asdict(result.speed) | {"tokens_per_forward_pass": result.speed.tokens_per_forward_pass},
        "settings": dict(result.settings),
        "notes": list(result.notes),
    }


def _estimate(estimate: Estimate) -> dict[str, Any]:
    """As the result's own file has it: a mean has no `ratio`."""
    return {name: value for name, value in asdict(estimate).items() if name != "ratio" or value is not None}


def _repeats(study: Study) -> dict[str, Any]:
    """Mean and standard deviation over seeds of every variant that is repeated."""
    return {
        contender.name: {
            "variants": [variant.label for variant in contender.variants],
            "benchmarks": {
                benchmark: {
                    metric: asdict(mean)
                    for metric in study.metrics(benchmark)
                    if (mean := contender.seed_mean(benchmark, metric)) is not None
                }
                for benchmark in study.benchmarks
            },
        }
        for contender in contenders(study)
        if len(contender.variants) > 1
    }
