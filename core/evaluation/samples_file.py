"""Samples files, made here or anywhere: which lines are answers, and what is wrong with the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from opendllm.core.evaluation.answers import answer_of
from opendllm.core.foundation.json_lines import json_lines
from opendllm.registries.benchmarks import (
    Answer,
    AnswerForm,
    Benchmark,
    GeneratedText,
    LikelihoodRequest,
    Request,
)
from opendllm.registries.errors import UserError

LONGEST_TEXT = 1_000_000
"""Characters of a sample; no answer to any benchmark is nearly as long."""
NAMED_TASKS = 10
_NUMBERS = ("log_likelihood", "variance", "tokens", "bytes")
_FORMS: Mapping[str, AnswerForm] = {"solution": "solution", "completion": "completion", "text": "written"}
"""Field -> what it holds; the first that a line has counts, as in EvalPlus."""


@dataclass
class Samples:
    """What a samples file holds.

    Attributes:
        answers: ordered by request and sample.
        lines: the file's own objects, one for each answer.
        issues: one line for each thing that is wrong, with file and line.
        missing: ids of the tasks that no answer is to.
    """

    answers: list[Answer] = field(default_factory=list)
    lines: list[Mapping[str, Any]] = field(default_factory=list)
    issues: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Entry:
    number: int
    line: Mapping[str, Any]
    task: str
    setting: str
    text: str | None


def about_file(samples: Path) -> Path:
    """Where a run says what its samples were made with."""
    return samples.with_suffix(".about.json")


def read_samples(path: Path, benchmark: Benchmark, requests: Sequence[Request]) -> Samples:
    """Read a samples file; a line that can't be scored is named and left out.

    Each line is an object with `task_id` and a `completion`, a whole `solution`, or the `text` that this
    platform writes. Several lines of one task are several samples of it.

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
    for line in json_lines(path):
        entry = line.issue or _entry(line.number, line.content, benchmark, order, texts)
        if isinstance(entry, str):
            found.issues.append(f"{path}:{line.number} {entry}")
        else:
            entries.append(entry)
    repeated = _repeated(entries)
    found.issues += [f"{path}:{number} {reason}" for number, reason in repeated.items()]
    entries = [entry for entry in entries if entry.number not in repeated]
    settings = list(dict.fromkeys(entry.setting for entry in entries))
    entries.sort(key=lambda entry: (order[entry.task], settings.index(entry.setting)))
    counted: Counter[tuple[str, str]] = Counter()
    for entry in entries:
        found.answers.append(_answer(entry, counted[(entry.task, entry.setting)]))
        found.lines.append(entry.line)
        counted[(entry.task, entry.setting)] += 1
    answered = {entry.task for entry in entries}
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
    number: int,
    line: Mapping[str, Any],
    benchmark: Benchmark,
    known: Collection[str],
    texts: Collection[str],
) -> _Entry | str:
    """The line, checked; or what is wrong with it. `texts` are the tasks that ask for a likelihood."""
    given = line.get("task_id")
    if isinstance(given, bool) or not isinstance(given, str | int):
        return "has no `task_id`"
    task = benchmark.task_of(str(given))
    if task not in known:
        return f"is of an unknown task, {str(given)[:80]!r}"
    setting = line.get("setting", "default")
    if not isinstance(setting, str):
        return "has a `setting` that isn't text"
    if _unfit(setting):
        return f"has a `setting` {_unfit(setting)}"
    if "log_likelihood" in line and task in texts:
        wrong = [name for name in _NUMBERS if not isinstance(line.get(name), int | float)]
        return f"has no number as `{wrong[0]}`" if wrong else _Entry(number, line, task, setting, None)
    name = next((name for name in _FORMS if name in line), None)
    if name is None:
        return "has neither a `completion` nor a `solution`"
    if _FORMS[name] not in benchmark.accepts:
        return f"has a `{name}`, which this benchmark cannot score; it takes what a run of it wrote"
    text = line[name]
    reason = _unfit(text)
    return f"has a `{name}` {reason}" if reason else _Entry(number, line, task, setting, text)


def _unfit(text: object) -> str | None:
    """Why a text can be no program and no answer."""
    if not isinstance(text, str):
        return "that isn't text"
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
    sizes = Counter((entry.task, entry.setting) for entry in entries)
    common = Counter(sizes.values())
    usual = min(common, key=lambda size: (-common[size], size), default=0)
    repeated: dict[int, str] = {}
    numbers: dict[tuple[str, str, int], int] = {}
    first: dict[tuple[str, str, str], int] = {}
    for entry in entries:
        key = (entry.task, entry.setting)
        sample = entry.line.get("sample")
        if isinstance(sample, int):
            before = numbers.setdefault((*key, sample), entry.number)
        else:
            before = first.setdefault((*key, repr(sorted(entry.line.items()))), entry.number)
            if sizes[key] <= usual:
                continue
        if before != entry.number:
            sizes[key] -= 1
            repeated[entry.number] = f"is a sample of {entry.task} that line {before} has already"
    return repeated


def _answer(entry: _Entry, index: int) -> Answer:
    line, task = entry.line, entry.task
    if entry.text is None:
        return answer_of({**line, "task_id": task, "setting": entry.setting})
    form = next(form for name, form in _FORMS.items() if name in line)
    sample = line.get("sample")
    return GeneratedText(
        task_id=task,
        setting=entry.setting,
        sample=sample if isinstance(sample, int) else index,
        text=entry.text,
        tokens=_integers(line.get("tokens")),
        reference_tokens=_integers(line.get("reference_tokens")),
        ended=line["ended"] if isinstance(line.get("ended"), bool) else None,
        form=form,
        failure=failure if isinstance(failure := line.get("failure"), str) and form == "written" else None,
    )


def _integers(value: object) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, list) and all(isinstance(item, int) for item in value) else ()


def unscorable(samples: Samples, path: Path) -> UserError:
    """The error where no line can be scored: everything that is wrong, a line each."""
    return UserError("\n".join(samples.issues or [f"{path} holds no samples"]))
