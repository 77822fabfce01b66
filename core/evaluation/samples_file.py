"""Samples files, made here or anywhere: which lines are answers, and what is wrong with the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from opendllm.core.foundation.json_lines import JsonLine
from opendllm.core.foundation.sample_records import TEXT_FIELDS, SampleRecord, read_records
from opendllm.registries.benchmarks import (
    Answer,
    Benchmark,
    GeneratedText,
    LikelihoodRequest,
    Request,
)
from opendllm.registries.errors import UserError

LONGEST_TEXT = 1_000_000
"""Characters of a sample; no answer to any benchmark is nearly as long."""
NAMED_TASKS = 10


@dataclass
class Samples:
    """What a samples file holds.

    Attributes:
        records: of what can be scored, ordered by request and sample.
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
    """A line that can be scored; `record` names the task as the benchmark does."""

    number: int
    line: Mapping[str, Any]
    record: SampleRecord

    @property
    def asked(self) -> tuple[str, str]:
        """Task and setting."""
        return self.record.answer.task_id, self.record.answer.setting


def about_file(samples: Path) -> Path:
    """Where a run says what its samples were made with."""
    return samples.with_suffix(".about.json")


def read_samples(path: Path, benchmark: Benchmark, requests: Sequence[Request]) -> Samples:
    """Read a samples file; a line that can't be scored is named and left out.

    What a line holds is said in docs/samples-format.md. Several lines of one task are several samples of it.

    Args:
        path: JSON lines, gzipped or not.
        benchmark: says which forms of answers it takes.
        requests: what it asks.

    Raises:
        UserError: the file can't be read.
    """
    order = {request.task_id: index for index, request in enumerate(requests)}
    texts = {request.task_id for request in requests if isinstance(request, LikelihoodRequest)}
    found = Samples()
    entries: list[_Entry] = []
    for line, record in read_records(path):
        entry = record if isinstance(record, str) else _entry(line, record, benchmark, order, texts)
        if isinstance(entry, str):
            found.issues.append(f"{path}:{line.number} {entry}")
        else:
            entries.append(entry)
    repeated = _repeated(entries)
    found.issues += [f"{path}:{number} {reason}" for number, reason in repeated.items()]
    entries = [entry for entry in entries if entry.number not in repeated]
    settings = list(dict.fromkeys(entry.asked[1] for entry in entries))
    entries.sort(key=lambda entry: (order[entry.asked[0]], settings.index(entry.asked[1])))
    counted: Counter[tuple[str, str]] = Counter()
    for entry in entries:
        found.records.append(_numbered(entry, counted[entry.asked]))
        counted[entry.asked] += 1
    answered = {task for task, _ in counted}
    found.missing = [task for task in order if task not in answered]
    if found.missing:
        named = ", ".join(found.missing[:NAMED_TASKS])
        more = len(found.missing) - NAMED_TASKS
        found.issues.append(
            f"{path} has no sample that can be scored of {len(found.missing)} of {len(order)} tasks: {named}"
            + (f" and {more} more" if more > 0 else "")
        )
    return found


def _entry(
    line: JsonLine,
    record: SampleRecord,
    benchmark: Benchmark,
    known: Collection[str],
    texts: Collection[str],
) -> _Entry | str:
    """The line, checked; or what is wrong with it. `texts` are the tasks that ask for a likelihood."""
    given, setting, _ = record.key
    task = benchmark.task_of(given)
    if task not in known:
        return f"is of an unknown task, {given[:80]!r}"
    if _unfit(setting):
        return f"has a `setting` {_unfit(setting)}"
    if isinstance(record.answer, GeneratedText):
        form = record.answer.form
        name = next(name for name in TEXT_FIELDS if TEXT_FIELDS[name] == form)
        if form not in benchmark.accepts:
            return f"has a `{name}`, which this benchmark cannot score; it takes what a run of it wrote"
        reason = _unfit(record.answer.text)
        if reason is not None:
            return f"has a `{name}` {reason}"
    elif task not in texts:
        return "has neither a `completion` nor a `solution`"
    answer = replace(record.answer, task_id=task)
    return _Entry(line.number, line.content, replace(record, answer=answer))


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


def _repeated(entries: Sequence[_Entry]) -> dict[int, str]:
    """Line number -> what is wrong, of the lines that say again what an earlier one says.

    Equal samples of a task are nothing odd. But a sample's number counts once; and of a task with more
    samples than most have, a line that is there twice is taken for a slip.
    """
    sizes = Counter(entry.asked for entry in entries)
    common = Counter(sizes.values())
    usual = min(common, key=lambda size: (-common[size], size), default=0)
    repeated: dict[int, str] = {}
    numbers: dict[tuple[str, str, int], int] = {}
    first: dict[tuple[str, str, str], int] = {}
    for entry in entries:
        key = entry.asked
        sample = entry.line.get("sample")
        if isinstance(sample, int):
            before = numbers.setdefault((*key, sample), entry.number)
        else:
            before = first.setdefault((*key, repr(sorted(entry.line.items()))), entry.number)
            if sizes[key] <= usual:
                continue
        if before != entry.number:
            sizes[key] -= 1
            repeated[entry.number] = f"is a sample of {key[0]} that line {before} has already"
    return repeated


def _numbered(entry: _Entry, index: int) -> SampleRecord:
    """The record; where its line numbers no sample, it is its task's `index`-th."""
    answer = entry.record.answer
    if isinstance(answer, GeneratedText) and not isinstance(entry.line.get("sample"), int):
        return replace(entry.record, answer=replace(answer, sample=index))
    return entry.record


def unscorable(samples: Samples, path: Path) -> UserError:
    """The error where no line can be scored: everything that is wrong, a line each."""
    return UserError("\n".join(samples.issues or [f"{path} holds no samples"]))
