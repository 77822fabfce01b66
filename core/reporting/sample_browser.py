"""The answers and traces that a report's reader can look through, packed for its script, in bounded size."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from opendllm.core.foundation.decoding_traces import trace_content
from opendllm.core.foundation.sample_records import SampleKey, SampleRecord
from opendllm.core.reporting.formatting import number
from opendllm.core.reporting.pages import Packer, packed_data
from opendllm.core.reporting.records import BenchmarkResult, Study
from opendllm.core.reporting.samples import benchmarks_with_samples

MOST_OF_A_RESULT, MOST_OF_A_PAGE, LEAST_OF_A_RESULT = 1000, 24_000, 20
LONGEST_TEXTS = (20_000, 4_000, 2_000, 1_000, 750, 500)
"""Characters of a text that are shown, the first of these with which all samples fit; else the last."""
MOST_PACKED, MOST_PACKED_TRACES = 6_000_000, 1_200_000
"""Characters of the page; with Plotly's two million and the tables it stays below ten million."""


@dataclass(frozen=True)
class SamplePage:
    """What the page holds.

    Attributes:
        packed: for `unpackJson`: `variants` and `benchmarks`, their names; `left_out`; `entries`, each a text
            or a row: benchmark, variant, task, setting, sample, prefix, suffix, reference, text, verdict,
            reason; where the first two are indices of names, as prefix, suffix and reference are of the texts
            before it (-1 for none).
        count: of samples.
        left_out: how many more the samples files hold.
        longest: characters after which texts are cut.
        cut: how many texts are.
    """

    packed: str
    count: int
    left_out: int
    longest: int
    cut: int


def sample_page(study: Study, most_packed: int = MOST_PACKED) -> SamplePage:
    """As many samples as fit, of every result as many; texts are rather cut than samples left out."""
    for longest in LONGEST_TEXTS:
        page, fits = _page(study, longest, most_packed)
        if fits:
            break
    return page


def _page(study: Study, longest: int, most_packed: int) -> tuple[SamplePage, bool]:
    """The page with texts that long, and whether all samples that are to be shown fit into it."""
    benchmarks = benchmarks_with_samples(study)
    files = {
        (at, index): records
        for at, benchmark in enumerate(benchmarks)
        for index, variant in enumerate(study.variants)
        if (records := variant.samples.get(benchmark))
    }
    most = max(LEAST_OF_A_RESULT, min(MOST_OF_A_RESULT, MOST_OF_A_PAGE // max(1, len(files))))
    wanted = sum(min(most, len(records)) for records in files.values())
    names = {"variants": [variant.label for variant in study.variants], "benchmarks": benchmarks}
    packer, texts, count = Packer(most_packed), _Texts(longest), 0
    packer.add(json.dumps(names)[:-1] + ',"entries":[')
    for place in range(most):  # of every result in turn, so that each gets its share of what fits
        for (at, index), records in files.items():
            if place < len(records) and packer.has_room:
                result = study.variants[index].benchmarks.get(benchmarks[at])
                row = [at, index, *_row(records[place], result, texts)]
                for entry in (*texts.take_new(), row):
                    packer.add(("," if packer.pieces > 1 else "") + json.dumps(entry, separators=(",", ":")))
                count += 1
    left_out = sum(map(len, files.values())) - count
    packed = packer.finish(f'],"left_out":{left_out}}}')
    return SamplePage(packed, count, left_out, longest, texts.cut), count == wanted


def _row(record: SampleRecord, result: BenchmarkResult | None, texts: _Texts) -> Iterator[Any]:
    task, setting, sample = record.key
    verdict, reason = _verdict(record, result)
    yield from (task, setting, sample)
    yield from (
        texts.index(record.prefix, keep_end=True),
        texts.index(record.suffix),
        texts.index(record.reference),
    )
    yield from (texts.clipped(record.text or ""), verdict, reason)


class _Texts:
    """Each prompt once: the variants were asked the same."""

    def __init__(self, longest: int) -> None:
        self.cut = 0
        self._longest = longest
        self._index: dict[tuple[str, bool], int] = {}
        self._new: list[str] = []

    def index(self, text: str | None, keep_end: bool = False) -> int:
        """Where it stands; -1 for none."""
        if text is None:
            return -1
        key = text, keep_end and len(text) > self._longest
        if key not in self._index:
            self._index[key] = len(self._index)
            self._new.append(self.clipped(*key))
        return self._index[key]

    def take_new(self) -> list[str]:
        """Those of before the last call excepted."""
        new, self._new = self._new, []
        return new

    def clipped(self, text: str, keep_end: bool = False) -> str:
        """Its beginning; of what stands before a gap, the end."""
        more = len(text) - self._longest
        if more <= 0:
            return text
        self.cut += 1
        if keep_end:
            return f"{more:,} more characters …\n{text[-self._longest :]}"
        return f"{text[: self._longest]}\n… {more:,} more characters"


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


@dataclass(frozen=True)
class TracePage:
    """The traces of each task side by side, as the trace viewer takes them; and which didn't fit."""

    packed: str
    count: int
    left_out: tuple[str, ...]


def trace_page(study: Study, most_packed: int = MOST_PACKED_TRACES) -> TracePage:
    """Each task's traces as long as there is room."""
    kept: list[Mapping[str, Any]] = []
    left_out = []
    for group in _trace_groups(study):
        if len(packed_data([*kept, group])) <= most_packed:
            kept.append(group)
        else:
            left_out.append(str(group["label"]))
    return TracePage(packed_data(kept), len(kept), tuple(left_out))


def _trace_groups(study: Study) -> Sequence[Mapping[str, Any]]:
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
