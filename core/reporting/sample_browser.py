"""The answers that a report's reader can look through, as plain data for its script."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from opendllm.core.foundation.decoding_traces import trace_content
from opendllm.core.foundation.sample_records import SampleKey, SampleRecord
from opendllm.core.reporting.formatting import number
from opendllm.core.reporting.records import BenchmarkResult, Study

MOST_OF_A_RESULT, MOST_OF_A_PAGE, LEAST_OF_A_RESULT = 1000, 24_000, 20
LONGEST_TEXT = 20_000
"""Characters of a text that are shown."""


def sample_data(study: Study) -> dict[str, Any]:
    """The samples of all variants.

    Returns:
        `texts`: prompts, suffixes and references, each once; `variants`, `benchmarks`: their names; `rows`:
        [benchmark, variant, task, setting, sample, prefix, suffix, reference, text, verdict, reason], where
        benchmark and variant are indices, as prefix, suffix and reference are into `texts` (-1 for none);
        `left_out`: how many there are besides, which the samples files hold.
    """
    benchmarks = _with_samples(study)
    labels = [variant.label for variant in study.variants]
    pairs = sum(name in variant.samples for variant in study.variants for name in benchmarks)
    most = max(LEAST_OF_A_RESULT, min(MOST_OF_A_RESULT, MOST_OF_A_PAGE // max(1, pairs)))
    texts = _Texts()
    rows: list[list[Any]] = []
    left_out = 0
    for at, benchmark in enumerate(benchmarks):
        for index, variant in enumerate(study.variants):
            records = variant.samples.get(benchmark, ())
            left_out += max(0, len(records) - most)
            result = variant.benchmarks.get(benchmark)
            rows += [[at, index, *_row(record, result, study, texts)] for record in records[:most]]
    return {
        "texts": texts.found,
        "variants": labels,
        "benchmarks": benchmarks,
        "rows": rows,
        "left_out": left_out,
    }


def _with_samples(study: Study) -> list[str]:
    names = [*study.benchmarks, *(name for variant in study.variants for name in variant.samples)]
    return [
        name for name in dict.fromkeys(names) if any(variant.samples.get(name) for variant in study.variants)
    ]


def _row(record: SampleRecord, result: BenchmarkResult | None, study: Study, texts: _Texts) -> Iterator[Any]:
    task, setting, sample = record.key
    verdict, reason = _verdict(record, result)
    yield from (task, setting, sample)
    yield from (texts.index(record.prefix), texts.index(record.suffix), texts.index(record.reference))
    yield from (_clipped(record.text or ""), verdict, reason)


class _Texts:
    """Each text once: the variants were asked the same."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self._index: dict[str, int] = {}

    def index(self, text: str | None) -> int:
        """Where it stands; -1 for none."""
        if text is None:
            return -1
        if text not in self._index:
            self._index[text] = len(self.found)
            self.found.append(_clipped(text))
        return self._index[text]


def _clipped(text: str) -> str:
    more = len(text) - LONGEST_TEXT
    return text if more <= 0 else f"{text[:LONGEST_TEXT]}\n… {more:,} more characters"


def _verdict(record: SampleRecord, result: BenchmarkResult | None) -> tuple[str, str]:
    """("passed", "failed", "partly", "not asked" or "not scored", why)."""
    if record.failure is not None:
        return "not asked", record.failure
    if result is None:
        return "not scored", ""
    if record.key in result.verdicts:
        reason = result.verdicts[record.key]
        return ("passed", "") if reason == "passed" else ("failed", reason)
    return _by_numbers(record.key, result)


def _by_numbers(key: SampleKey, result: BenchmarkResult) -> tuple[str, str]:
    """What the task's own numbers say, where answers aren't judged one by one."""
    task, setting, _ = key
    numbers = result.per_task.get(task, {})
    suffix = "" if setting == "default" else f"_{setting}"
    names = [name for name in numbers if (name.endswith(suffix) if suffix else True)]
    first = next((name for name in result.headline if name in names), None)
    first = first or next((name for name in ("passed", *names) if name in names), None)
    if first is None:
        return "not scored", ""
    said = ", ".join(f"{name.removesuffix(suffix)} {number(numbers[name])}" for name in names[:6])
    value = numbers[first]
    if first in result.lower_is_better or not 0 <= value <= 1:
        return "scored", said
    return ("passed" if value == 1 else "failed" if value == 0 else "partly"), said


def trace_groups(study: Study) -> list[dict[str, Any]]:
    """The traces of each task side by side, as the trace viewer takes them."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for variant in study.variants:
        for benchmark, trace in variant.traces.items():
            key = (benchmark, trace.task_id or "", trace.setting or "")
            groups.setdefault(key, []).append(
                {**trace_content(trace), "label": f"{variant.label} · {trace.sampler}"}
            )
    return [
        {"label": " · ".join(part for part in key if part and part != "default"), "traces": traces}
        for key, traces in groups.items()
    ]
