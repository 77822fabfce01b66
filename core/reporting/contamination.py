"""What contamination.json of a run says, as tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opendllm.core.reporting.json_files import as_integer, as_number, as_text, get_object, read_object
from opendllm.core.reporting.records import Study
from opendllm.core.reporting.tables import Cell, Table
from opendllm.registries.errors import UserError

CONTAMINATION_FILE = "contamination.json"
COMPARE_AGAIN = "run the manifest again, which compares anew"


@dataclass(frozen=True)
class Contamination:
    """Of one run.

    Attributes:
        about: in a sentence or more.
        counts: a row a benchmark.
        worst: its worst tasks, each with the document that holds most of it.
    """

    about: str
    counts: Table
    worst: Table


def contaminations(study: Study) -> list[Contamination]:
    """Of each run that has looked."""
    found = []
    for run in study.runs:
        content = read_contamination(run.folder)
        if content is not None:
            found.append(_shown(run.label, content, run.folder / CONTAMINATION_FILE))
    return found


def read_contamination(folder: Path) -> dict[str, Any] | None:
    """What a run found; None where it hasn't looked, and `{"damage": why}` where its file can't be read."""
    path = folder / CONTAMINATION_FILE
    if not path.exists():
        return None
    try:
        return read_object(path, COMPARE_AGAIN)
    except UserError as error:
        return {"damage": str(error)}


def _shown(label: str, content: Mapping[str, Any], path: Path) -> Contamination:
    of = f"{label}: " if label else ""
    if "damage" in content:
        return Contamination(f"{of}{content['damage']}", Table((), ()), Table((), ()))
    try:
        benchmarks = get_object(content, "benchmarks", path)
        unread = get_object(content, "unread", path)
    except UserError as error:
        return Contamination(f"{of}{error}", Table((), ()), Table((), ()))
    words, documents = (as_integer(content.get(key)) or 0 for key in ("words", "documents"))
    about = (
        f"{of}tasks that share {words} words in a row with any of the {documents:,} documents that were "
        f"trained on."
    )
    for name, why in unread.items():
        about += f" {name} was not compared: {why}."
    counts = [
        _row(name, *(f"{as_integer(found.get(key)) or 0:,}" for key in _COUNTS))
        for name, found in benchmarks.items()
        if isinstance(found, dict)
    ]
    worst = [
        row for name, found in benchmarks.items() if isinstance(found, dict) for row in _worst(name, found)
    ]
    return Contamination(
        about,
        Table(("benchmark", "tasks", "tasks found", "documents", "too short to tell"), tuple(counts)),
        Table(("benchmark", "task", "document", "share of the task"), tuple(worst), names=3),
    )


_COUNTS = ("tasks", "tasks_found", "documents_found", "too_short")


def _worst(benchmark: str, found: Mapping[str, Any]) -> Iterator[tuple[Cell, ...]]:
    listed = found.get("worst")
    for each in listed if isinstance(listed, list) else ():
        if isinstance(each, dict):
            task, document = as_text(each.get("task")) or "?", as_text(each.get("document")) or "?"
            yield _row(benchmark, task, document, f"{as_number(each.get('share')) or 0:.0%}")


def _row(*values: str) -> tuple[Cell, ...]:
    return tuple(Cell(value) for value in values)
