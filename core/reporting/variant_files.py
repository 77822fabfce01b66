"""Reads the files of one variant's folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args

from opendllm.core.foundation.sample_records import SampleKey, SampleRecord, read_records
from opendllm.core.reporting.json_files import (
    as_integer,
    as_number,
    as_text,
    get_object,
    get_texts,
    read_lines,
    read_object,
)
from opendllm.core.reporting.records import (
    BenchmarkResult,
    Curve,
    Estimate,
    RewardLog,
    Speed,
    TrainingLog,
)
from opendllm.registries.benchmarks import MetricKind, TaskRatio


def read_training(path: Path) -> TrainingLog | None:
    """A train.jsonl, or None where there is none or none of its lines is complete.

    A run that was continued from a checkpoint logs some steps twice: the later line counts.

    Raises:
        UserError: the file can't be read.
    """
    if not path.exists():
        return None
    lines, unreadable = read_lines(path)
    by_step: dict[int, dict[str, Any]] = {}
    for line in lines:
        step = as_number(line.get("step"))
        if step is not None:
            by_step.setdefault(int(step), {}).update(line)
    if not by_step:
        return None
    logged = [by_step[step] for step in sorted(by_step)]
    seconds = [as_number(line.get("seconds")) for line in logged]
    tokens = [count for line in logged if (count := as_number(line.get("tokens"))) is not None]
    return TrainingLog(
        loss=_curve(by_step, "loss"),
        held_out_loss=_curve(by_step, "held_out_loss"),
        steps=max(by_step),
        tokens=int(max(tokens)) if tokens else None,
        tokens_per_second=_mean_speed(logged),
        seconds=sum(each for each in seconds if each is not None) if any(seconds) else None,
        device_seconds=_device_seconds(logged),
        peak_memory_bytes=max((_whole(line, "peak_memory_bytes") for line in logged), default=0) or None,
        unreadable_lines=unreadable,
        lost_from=_lost_from(by_step),
        rewards=_rewards(by_step),
    )


def read_result(path: Path) -> BenchmarkResult:
    """A results/BENCHMARK.json.

    Raises:
        UserError: it is broken; the message names the file.
    """
    content = read_object(path)
    metrics = get_object(content, "metrics", path)
    per_task = get_object(content, "per_task", path)
    speed = get_object(content, "speed", path)
    return BenchmarkResult(
        benchmark=as_text(content.get("benchmark")) or path.stem,
        metrics={name: _estimate(get_object(metrics, name, path)) for name in metrics},
        headline=get_texts(content, "headline", path),
        lower_is_better=frozenset(get_texts(content, "lower_is_better", path)),
        per_task={task: _task_numbers(get_object(per_task, task, path)) for task in per_task},
        notes=get_texts(content, "notes", path),
        settings=get_object(content, "settings", path),
        provenance=get_object(content, "provenance", path),
        speed=Speed(
            tokens_per_second=as_number(speed.get("tokens_per_second")),
            # Scoring a given text writes nothing: its 0 is not a number of passes.
            forward_passes=as_number(speed.get("forward_passes")) or None,
            seconds=as_number(speed.get("seconds")),
            texts=as_number(speed.get("texts")),
            tokens=_tokens(speed),
            peak_memory_bytes=as_integer(speed.get("peak_memory_bytes")),
        ),
        verdicts=_verdicts(content.get("verdicts")),
    )


@dataclass(frozen=True)
class SampleTexts:
    """A samples/BENCHMARK.jsonl.

    Attributes:
        records: its texts, each once.
        issue: what is wrong with its first line that is none; None where all are whole.
    """

    records: tuple[SampleRecord, ...]
    issue: str | None


def read_samples(path: Path) -> SampleTexts:
    """All of a file; a last line that was cut short is ordinary.

    Raises:
        UserError: the file can't be read.
    """
    found: dict[SampleKey, SampleRecord] = {}
    issues: list[str] = []
    for line, record in read_records(path):
        if isinstance(record, str):
            issues += [f"{path}:{line.number} {record}"] if line.complete else []
        elif record.text is not None:
            found.setdefault(record.key, record)
    more = f", and {len(issues) - 1} more lines are none" if len(issues) > 1 else ""
    return SampleTexts(tuple(found.values()), issues[0] + more if issues else None)


def _curve(by_step: Mapping[int, Mapping[str, Any]], key: str) -> Curve:
    values = ((step, as_number(by_step[step].get(key))) for step in sorted(by_step))
    return tuple((step, value) for step, value in values if value is not None)


def _rewards(by_step: Mapping[int, Mapping[str, Any]]) -> RewardLog | None:
    if not any("reward" in line for line in by_step.values()):
        return None
    return RewardLog(**{field.name: _curve(by_step, field.name) for field in fields(RewardLog)})


def _lost_from(by_step: Mapping[int, Mapping[str, Any]]) -> int | None:
    lost = [
        step
        for step, line in by_step.items()
        if any(key in line and as_number(line[key]) is None for key in ("loss", "held_out_loss"))
    ]
    return min(lost, default=None)


def _mean_speed(lines: list[dict[str, Any]]) -> float | None:
    """Tokens per second over the whole time, so that a slow step weighs what it took."""
    total = duration = 0.0
    for line in lines:
        speed, seconds = as_number(line.get("tokens_per_second")), as_number(line.get("seconds"))
        if speed is not None:
            weight = 1.0 if seconds is None else seconds
            total += speed * weight
            duration += weight
    return total / duration if duration else None


def _device_seconds(lines: list[dict[str, Any]]) -> float | None:
    """Added up over processes; logs of before they were counted have one."""
    spent = [
        seconds * max(1, _whole(line, "processes"))
        for line in lines
        if (seconds := as_number(line.get("seconds"))) is not None
    ]
    return sum(spent) if spent else None


def _whole(line: Mapping[str, Any], key: str) -> int:
    return as_integer(line.get(key)) or 0


def _tokens(speed: Mapping[str, Any]) -> float | None:
    """Results of before they were counted have tokens a second."""
    rate, seconds = as_number(speed.get("tokens_per_second")), as_number(speed.get("seconds"))
    counted = as_number(speed.get("tokens"))
    return rate * seconds if counted is None and rate is not None and seconds is not None else counted


def _verdicts(content: object) -> dict[SampleKey, str]:
    """Those that are whole: task, setting, sample, and a word."""
    found = {}
    for entry in content if isinstance(content, list) else ():
        match entry:
            case [str(task), str(setting), int(sample), str(reason)]:
                found[(task, setting, sample)] = reason
    return found


def _estimate(metric: Mapping[str, Any]) -> Estimate:
    value, low, high = (as_number(metric.get(key)) for key in ("value", "low", "high"))
    kind: MetricKind = metric["kind"] if metric.get("kind") in get_args(MetricKind) else "estimate"
    return Estimate(value, low, high, kind, _ratio(metric.get("ratio")))


def _ratio(content: object) -> TaskRatio | None:
    match content:
        case {"numerator": str(numerator), "denominator": str(denominator), "exponential": bool(exponential)}:
            return TaskRatio(numerator, denominator, exponential)
    return None


def _task_numbers(values: Mapping[str, Any]) -> dict[str, float]:
    numbers = {
        key: float(value) if isinstance(value, bool) else as_number(value) for key, value in values.items()
    }
    return {key: number for key, number in numbers.items() if number is not None}
