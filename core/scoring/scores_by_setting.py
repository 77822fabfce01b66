"""Per-task values of each way of asking, as metrics with intervals: oracle, fixed lengths, their average."""

from __future__ import annotations

import ast
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

from opendllm.core.scoring.infilling_lengths import averaged_setting, fixed_lengths
from opendllm.core.scoring.statistics import bootstrap_mean
from opendllm.registries.benchmarks import DEFAULT_SETTING, GeneratedText, Metric, Scores

TaskValues = Mapping[str, float | bool]
"""Task id -> value."""

OUTPUT_SHARES = ("empty", "truncated", "unparsable")
"""The metrics of `output_shares`; of each, less is better."""
LONGEST_PARSED = 1_000_000


def metric_name(name: str, setting: str) -> str:
    """How a metric of one setting is called; the default setting has no suffix."""
    return name if setting == DEFAULT_SETTING else f"{name}_{setting}"


def scores_by_setting(
    values: Mapping[str, Mapping[str, TaskValues]], notes: Sequence[str] = (), hidden: Sequence[str] = ()
) -> Scores:
    """Metrics with bootstrap intervals over tasks, and the per-task values that variants are paired by.

    Where a metric was measured at two fixed lengths or more, their average is added: each task's mean,
    of the tasks that have them all.

    Args:
        values: metric -> setting -> task id -> value.
        notes: see `Scores`.
        hidden: metrics that are kept task by task only.
    """
    metrics: dict[str, Metric] = {}
    per_task: dict[str, dict[str, float | bool]] = defaultdict(dict)
    for name, by_setting in values.items():
        for setting, by_task in {**by_setting, **_averaged(by_setting)}.items():
            if name not in hidden:
                metrics[metric_name(name, setting)] = bootstrap_mean(list(by_task.values()))
            for task, value in by_task.items():
                per_task[task][metric_name(name, setting)] = value
    return Scores(metrics, per_task, tuple(notes))


def output_shares(
    answers: Sequence[GeneratedText], parses: Callable[[GeneratedText], bool] | None = None
) -> dict[str, dict[str, dict[str, float]]]:
    """The shares of answers that are empty, that no EOS or stop string ended, and that don't parse.

    Args:
        answers: all of a benchmark's; those that failed before anything was written are left out.
        parses: whether what an answer stands in is well-formed; None where that means nothing.

    Returns:
        As `scores_by_setting` takes them; "truncated" only where it is known.
    """
    tests: dict[str, Callable[[GeneratedText], bool | None]] = {
        "empty": lambda answer: not answer.text.strip(),
        "truncated": lambda answer: None if answer.ended is None else not answer.ended,
    }
    if parses is not None:
        tests["unparsable"] = lambda answer: not parses(answer)
    written = [answer for answer in answers if answer.failure is None]
    shares = {name: mean_by_task(written, test) for name, test in tests.items()}
    return {name: by_setting for name, by_setting in shares.items() if by_setting}


def mean_by_task(
    answers: Sequence[GeneratedText], value: Callable[[GeneratedText], float | bool | None]
) -> dict[str, dict[str, float]]:
    """Setting -> task id -> the mean of a value over the task's samples.

    A None doesn't count; an answer that failed counts as 0.
    """
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for answer in answers:
        of_answer = 0.0 if answer.failure is not None else value(answer)
        if of_answer is not None:
            found[answer.setting][answer.task_id].append(float(of_answer))
    return {
        setting: {task: sum(values) / len(values) for task, values in by_task.items()}
        for setting, by_task in found.items()
    }


def lower_is_better(settings: Iterable[str]) -> frozenset[str]:
    """The names that `output_shares` has in these settings and in their average."""
    names = [*settings, DEFAULT_SETTING]
    fixed = fixed_lengths(names)
    names += [averaged_setting(fixed.values())] if len(fixed) > 1 else []
    return frozenset(metric_name(share, setting) for share in OUTPUT_SHARES for setting in names)


def parses_as_python(source: str) -> bool:
    """Whether this is Python; a text of more than a million characters is not even tried."""
    if len(source) > LONGEST_PARSED:
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd escapes, which are legal
            ast.parse(source)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False
    return True


def _averaged(by_setting: Mapping[str, TaskValues]) -> dict[str, dict[str, float]]:
    fixed = fixed_lengths(by_setting)
    if len(fixed) < 2:
        return {}
    columns = [by_setting[setting] for setting in fixed]
    means = {
        task: sum(float(column[task]) for column in columns) / len(columns)
        for task in columns[0]
        if all(task in column for column in columns)
    }
    return {averaged_setting(fixed.values()): means} if means else {}
