"""`steps: {grid: [8, 16, 32]}`: a variant of each value of an option of `generate`, named by it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from opendllm.core.manifest.checks import GRID, Issue, ManifestError, dotted, is_grid
from opendllm.core.manifest.schema import NAME_PATTERN
from opendllm.core.manifest.sources import KeyPath, Source

_HOLDERS: tuple[KeyPath, ...] = (("generate",), ("generate", "sampler", "options"))
"""Sections whose options may have a grid."""


def without_grids(name: str, merged: Source, by_itself: bool) -> Iterator[tuple[str, Source]]:
    """(name, keys) of each variant that a variant's grids make; the variant alone where it has none.

    Several grids make a variant of every combination.

    Args:
        name: the variant's.
        merged: its keys.
        by_itself: whether it is the only one, of a manifest that names none.

    Raises:
        ManifestError: a grid is no list of different values, or values can't name a variant.
    """
    grids = dict(_grids(merged))
    for combination in itertools.product(*grids.values()):
        data = merged.data
        parts = [] if by_itself and grids else [name]
        for path, value in zip(grids, combination, strict=True):
            data = _replaced(data, path, value)
            parts.append(f"{path[-1]}-{_written(value)}")
        yield "-".join(parts), replace(merged, data=data)


def _grids(merged: Source) -> Iterator[tuple[KeyPath, list[Any]]]:
    for holder in _HOLDERS:
        section: Any = merged.data
        for key in holder:
            section = section.get(key) if isinstance(section, Mapping) else None
        for key, value in section.items() if isinstance(section, Mapping) else ():
            if is_grid(value):
                path = (*holder, key)
                yield path, _values(merged, path, value)


def _values(merged: Source, path: KeyPath, given: Mapping[str, Any]) -> list[Any]:
    values = given[GRID]
    why = None
    if path == ("generate", "sampler"):
        why = "a grid is of one option's values: compare samplers as variants"
    elif len(given) > 1:
        why = f"a grid stands alone, without {', '.join(sorted(set(given) - {GRID}))}"
    elif not isinstance(values, list) or not values:
        why = f"a grid is a list of values, as in `{{grid: [8, 16, 32]}}` (given: {values!r})"
    elif any(not isinstance(value, bool | int | float | str | None) for value in values):
        why = "a grid's values are numbers, words, true, false or null"
    elif len({_written(value) for value in values}) < len(values):
        why = f"a grid's values differ from each other (given: {values!r})"
    else:
        wrong = [value for value in values if not re.fullmatch(NAME_PATTERN, f"a{_written(value)}")]
        if wrong:
            why = f"{wrong[0]!r} can't be part of a variant's name, which a grid's values are"
    if why is not None:
        raise ManifestError([Issue(merged.location(path), dotted(path), why)])
    assert isinstance(values, list)
    return values


def _written(value: Any) -> str:
    """A value as a variant's name has it."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


def _replaced(data: Mapping[str, Any], path: KeyPath, value: Any) -> dict[str, Any]:
    first, *rest = path
    new = _replaced(data[str(first)], tuple(rest), value) if rest else value
    return {**data, str(first): new}
