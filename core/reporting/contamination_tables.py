"""What contamination.json of a run says, as tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opendllm.core.foundation.contamination_file import CONTAMINATION_FILE, SHARES
from opendllm.core.reporting.json_files import as_integer, as_number, as_text, get_object, read_object
from opendllm.core.reporting.records import Study
from opendllm.core.reporting.tables import Cell, Table
from opendllm.registries.errors import UserError

COMPARE_AGAIN = "run the manifest again, which compares anew"

NO_ROWS = Table((), ())


@dataclass(frozen=True)
class Contamination:
    """Of one run's corpora that variants share.

    Attributes:
        about: in a sentence or more.
        counts: a row a benchmark.
        worst: its worst tasks, each with the document that holds most of it.
    """

    about: str
    counts: Table = NO_ROWS
    worst: Table = NO_ROWS


def contaminations(study: Study) -> list[Contamination]:
    """Of each run that has looked, and each of its corpora."""
    found: list[Contamination] = []
    for run in study.runs:
        content = read_contamination(run.folder)
        if content is not None:
            of = f"{run.label}: " if run.label else ""
            found += _shown(of, content, run.folder / CONTAMINATION_FILE)
    return found


def read_contamination(folder: Path) -> dict[str, Any] | None:
    """What a run found; None where it hasn't looked, and `{"damage": why}` where its file can't be read."""
    path = folder / CONTAMINATION_FILE
    if not path.exists():
        return None
    try:
        content = read_object(path, COMPARE_AGAIN)
    except UserError as error:
        return {"damage": str(error)}
    if not isinstance(content.get("corpora"), list):
        return {"damage": f"{path} has no list `corpora`: delete it, and run again"}
    return content


def _shown(of: str, content: Mapping[str, Any], path: Path) -> Iterator[Contamination]:
    if "damage" in content:
        yield Contamination(f"{of}{content['damage']}")
        return
    for entry in content["corpora"]:
        try:
            yield _of_corpora(of, entry if isinstance(entry, dict) else {}, path)
        except UserError as error:
            yield Contamination(f"{of}{error}")


def _of_corpora(of: str, entry: Mapping[str, Any], path: Path) -> Contamination:
    benchmarks = get_object(entry, "benchmarks", path)
    found = {name: value for name, value in benchmarks.items() if isinstance(value, dict)}
    variants = ", ".join(_names(entry.get("variants"))) or "?"
    corpora = " and ".join(_names(entry.get("corpora"))) or "?"
    words = as_integer(entry.get("words")) or 0
    about = (
        f"{of}{variants}, trained on {corpora}: tasks of which {_read(entry)} hold more than a share, by "
        f"runs of {words} words; what over a tenth of a benchmark's tasks have is its form, and not counted."
    )
    for name, why in get_object(entry, "unread", path).items():
        about += f" {name} was not compared: {why}."
    shares = (f"over {share:.0%}" for share in SHARES)
    header = ("benchmark", "tasks", *shares, "documents", "too short")
    return Contamination(
        about,
        Table(header, tuple(_counts(name, counts) for name, counts in found.items())),
        Table(
            ("benchmark", "task", "document", "share of the task"),
            tuple(row for name, counts in found.items() for row in _worst(name, counts)),
            names=3,
        ),
    )


def _read(entry: Mapping[str, Any]) -> str:
    """What was read, and how fast."""
    documents, characters = (as_integer(entry.get(key)) or 0 for key in ("documents", "characters"))
    seconds = as_number(entry.get("seconds")) or 0.0
    rate = f", {characters / 1e6 / seconds:,.1f} million a second" if seconds > 0 else ""
    first = "its" if entry.get("whole") is not False else "its first"
    return f"{first} {documents:,} documents ({characters / 1e6:,.1f} million characters{rate})"


def _names(listed: object) -> list[str]:
    return [as_text(name) or "?" for name in listed] if isinstance(listed, list) else []


def _counts(benchmark: str, counts: Mapping[str, Any]) -> tuple[Cell, ...]:
    over = counts.get("tasks_over")
    by_share = [over.get(str(share)) if isinstance(over, dict) else None for share in SHARES]
    numbers = (counts.get("tasks"), *by_share, counts.get("documents_found"), counts.get("too_short"))
    return _row(benchmark, *(f"{as_integer(number) or 0:,}" for number in numbers))


def _worst(benchmark: str, counts: Mapping[str, Any]) -> Iterator[tuple[Cell, ...]]:
    listed = counts.get("worst")
    for each in listed if isinstance(listed, list) else ():
        if isinstance(each, dict):
            task, document = as_text(each.get("task")) or "?", as_text(each.get("document")) or "?"
            yield _row(benchmark, task, document, f"{as_number(each.get('share')) or 0:.0%}")


def _row(*values: str) -> tuple[Cell, ...]:
    return tuple(Cell(value) for value in values)
