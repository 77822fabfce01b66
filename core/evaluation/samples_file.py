"""Samples files, made here or anywhere: which lines are answers, and what is wrong with the others."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from opendllm.core.evaluation.sample_sources import sample_lines
from opendllm.core.foundation.json_lines import JsonLine
from opendllm.core.foundation.sample_records import (
    TEXT_FIELDS,
    SampleRecord,
    parse_record,
)
from opendllm.registries.benchmarks import (
    DEFAULT_SETTING,
    Answer,
    Benchmark,
    GeneratedText,
    GenerationRequest,
    LikelihoodRequest,
    Request,
    TextLikelihood,
)
from opendllm.registries.errors import UserError

LONGEST_TEXT = 1_000_000
"""Characters of a sample; no answer to any benchmark is nearly as long."""
NAMED_TASKS = 10


@dataclass
class Samples:
    """What samples from elsewhere, or a run's own, hold.

    Attributes:
        records: of what can be scored and of what failed, ordered by request and sample.
        issues: one line for each thing that is wrong, with file and line.
        missing: ids of the tasks that no answer is to.
    """

    records: list[SampleRecord] = field(default_factory=list)
    issues: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    @property
    def answers(self) -> list[Answer]:
        """What the benchmark is handed."""
        return [record.answer for record in self.records]


@dataclass(frozen=True)
class _Entry:
    """A line that counts; `record` names the task as the benchmark does.

    Attributes:
        where: it stands.
        line: as it was read.
        record: what it says.
        issue: why it counts as failed; None of a line that can be scored, or that a run wrote.
    """

    where: str
    line: JsonLine
    record: SampleRecord
    issue: str | None = None

    @property
    def asked(self) -> tuple[str, str]:
        """Task and setting."""
        return self.record.answer.task_id, self.record.answer.setting


def about_file(samples: Path) -> Path:
    """Where a run says what its samples were made with."""
    return samples.with_suffix(".about.json")


def read_samples(path: Path, benchmark: Benchmark, requests: Sequence[Request]) -> Samples:
    """Read samples; what can't be scored is named, and counts as a failed sample of its task.

    What a line holds is said in docs/samples-format.md. Several lines of one task are several samples of
    it, equal ones too. Lines of which nobody knows the task are left out.

    Args:
        path: see `sample_lines`.
        benchmark: says which forms of answers it takes.
        requests: what it asks.

    Raises:
        UserError: the file can't be read.
    """
    order = {request.task_id: index for index, request in enumerate(requests)}
    texts = {request.task_id for request in requests if isinstance(request, LikelihoodRequest)}
    found = Samples()
    entries: list[_Entry] = []
    for where, line in sample_lines(path, list(order)):
        entry = line.issue or _entry(where, line, benchmark, order, texts)
        if isinstance(entry, str):
            found.issues.append(f"{where} {entry}")
            continue
        if entry.issue is not None:
            found.issues.append(f"{where} {entry.issue}")
        entries.append(entry)
    numbered = _numbered_twice(entries)
    found.issues += [f"{entry.where} {reason}" for entry, reason in numbered]
    left_out = {id(entry) for entry, _ in numbered}
    entries = [entry for entry in entries if id(entry) not in left_out]
    found.issues += _oddly_repeated(entries)
    settings = list(dict.fromkeys(entry.asked[1] for entry in entries))
    entries.sort(key=lambda entry: (order[entry.asked[0]], settings.index(entry.asked[1])))
    counted: Counter[tuple[str, str]] = Counter()
    for entry in entries:
        found.records.append(_numbered(entry, counted[entry.asked]))
        counted[entry.asked] += 1
    answered = {task for task, _ in counted}
    found.missing = [task for task in order if task not in answered]
    if found.missing:
        found.issues.append(f"{path} has no sample that can be scored of {_named(found.missing, len(order))}")
    return found


def count_missing_as_failed(samples: Samples, requests: Sequence[Request]) -> Samples:
    """The same with a failed answer to each request that has none, in every setting that there is.

    There are as many of them as the tasks have that have fewest: pass@k stays what it is for the others.
    """
    reason = "has no sample"
    sizes = Counter((answer.task_id, answer.setting) for answer in samples.answers)
    least: dict[str, int] = {}
    for (_, setting), size in sizes.items():
        least[setting] = min(size, least.get(setting, size))
    added: list[Answer] = []
    for task in dict.fromkeys(r.task_id for r in requests if isinstance(r, GenerationRequest)):
        for setting, size in least.items() or [(DEFAULT_SETTING, 1)]:
            if (task, setting) not in sizes:
                added += [
                    GeneratedText(task, setting, n, "", form="completion", failure=reason)
                    for n in range(size)
                ]
    for request in requests:
        if isinstance(request, LikelihoodRequest) and (request.task_id, request.setting) not in sizes:
            added.append(
                TextLikelihood(request.task_id, request.setting, math.nan, 0.0, 0, 0, failure=reason)
            )
    order = {request.task_id: index for index, request in enumerate(requests)}
    records = [*samples.records, *map(SampleRecord, added)]
    records.sort(key=lambda record: order[record.answer.task_id])
    return replace(samples, records=records)


def _entry(
    where: str, line: JsonLine, benchmark: Benchmark, known: Collection[str], texts: Collection[str]
) -> _Entry | str:
    """The line, checked; or why it counts for nothing. `texts` are the tasks that ask for a likelihood."""
    record = parse_record(line.content)
    issue = record if isinstance(record, str) else None
    if isinstance(record, str):  # without a text that is one: it may say all the same whose sample it is
        record = parse_record({**line.content, **dict.fromkeys(TEXT_FIELDS), "completion": ""})
    if isinstance(record, str):
        return record
    given, setting, _ = record.key
    task = benchmark.task_of(given)
    if task not in known:
        return f"is of an unknown task, {given[:80]!r}"
    if _unfit(setting):
        return f"has a `setting` {_unfit(setting)}"
    answer = replace(record.answer, task_id=task)
    if isinstance(answer, TextLikelihood) or task in texts:
        if isinstance(answer, TextLikelihood) and task in texts:
            return _Entry(where, line, replace(record, answer=answer))
        nothing = "has no likelihood" if task in texts else "has neither a `completion` nor a `solution`"
        return issue or nothing
    name = next(name for name in TEXT_FIELDS if TEXT_FIELDS[name] == answer.form)
    if issue is None and answer.form not in benchmark.accepts:
        return f"has a `{name}`, which this benchmark cannot score; it takes what a run of it wrote"
    if issue is None and answer.form != "written" and _unfit(answer.text):
        issue = f"has a `{name}` {_unfit(answer.text)}"
    if issue is None:
        return _Entry(where, line, replace(record, answer=answer))
    failed = replace(answer, text="", failure=issue)
    return _Entry(where, line, replace(record, answer=failed), f"{issue}; it counts as failed")


def _unfit(text: str) -> str | None:
    """Why a text can be no program and no answer."""
    if len(text) > LONGEST_TEXT:
        return f"of {len(text):,} characters, more than the {LONGEST_TEXT:,} that are scored"
    if "\0" in text:
        return f"with a null byte (character {text.index(chr(0))})"
    surrogate = next(
        (index for index, character in enumerate(text) if "\ud800" <= character <= "\udfff"), None
    )
    return None if surrogate is None else f"with a lone surrogate (character {surrogate})"


def _numbered_twice(entries: Sequence[_Entry]) -> list[tuple[_Entry, str]]:
    """The lines whose `sample` number an earlier one has: one of them is a slip, and the first counts."""
    first: dict[tuple[str, str, int], _Entry] = {}
    found = []
    for entry in entries:
        sample = entry.line.content.get("sample")
        if isinstance(sample, int):
            before = first.setdefault((*entry.asked, sample), entry)
            if before is not entry:
                reason = f"is a sample of {entry.asked[0]} that line {before.line.number} has already"
                found.append((entry, reason))
    return found


def _oddly_repeated(entries: Sequence[_Entry]) -> list[str]:
    """Issues with equal lines of a task that has more samples than most: a slip, perhaps.

    They count all the same: greedy samples are equal, and nobody can tell them from a line copied twice.
    """
    sizes = Counter(entry.asked for entry in entries)
    common = Counter(sizes.values())
    usual = min(common, key=lambda size: (-common[size], size), default=0)
    first: dict[tuple[str, str, str], _Entry] = {}
    issues = []
    for entry in entries:
        if sizes[entry.asked] > usual and not isinstance(entry.line.content.get("sample"), int):
            before = first.setdefault((*entry.asked, repr(sorted(entry.line.content.items()))), entry)
            if before is not entry:
                issues.append(
                    f"{entry.where} is a sample of {entry.asked[0]} that line {before.line.number} has "
                    f"already; most tasks have fewer, but both count"
                )
    return issues


def _numbered(entry: _Entry, index: int) -> SampleRecord:
    """The record; where its line numbers no sample, it is its task's `index`-th."""
    answer = entry.record.answer
    if isinstance(answer, GeneratedText) and not isinstance(entry.line.content.get("sample"), int):
        return replace(entry.record, answer=replace(answer, sample=index))
    return entry.record


def _named(missing: Sequence[str], tasks: int) -> str:
    more = len(missing) - NAMED_TASKS
    named = ", ".join(missing[:NAMED_TASKS]) + (f" and {more} more" if more > 0 else "")
    return f"{len(missing)} of {tasks} tasks: {named}"


def missing_tasks(samples: Samples, path: Path, tasks: int) -> UserError:
    """The error where tasks without a sample are refused."""
    return UserError(
        f"{path} has no sample of {_named(samples.missing, tasks)}: nothing is scored; count them as failed "
        f"with --missing failed"
    )


def unscorable(samples: Samples, path: Path) -> UserError:
    """The error where no line can be scored: everything that is wrong, a line each."""
    return UserError("\n".join(samples.issues or [f"{path} holds no samples"]))
