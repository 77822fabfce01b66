"""The files that a glob matches: each once, named relative to the glob's fixed part."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_WILDCARDS = frozenset("*?[")
Identity = tuple[int, int] | str


@dataclass(frozen=True)
class MatchedFile:
    """A file.

    Attributes:
        name: relative to the part of the glob before its first wildcard, with `/`; what in it is no
            Unicode is escaped. The same wherever the folder lies.
        path: where it is.
    """

    name: str
    path: Path


def matching_files(pattern: str) -> list[MatchedFile]:
    """The files that a glob matches, sorted by name.

    `*`, `?` and `[...]` match within a name, `**` any number of folders; names that begin with a dot
    only match where the pattern spells the dot. Links are followed; a folder or file that can be reached
    in several ways, by links of either kind, counts once, under the first of its names. Brackets are
    taken literally where something of that name is there. `~` is the user's home.
    """
    base, parts = _fixed_part(pattern)
    found = sorted(_expanded(base, parts), key=lambda path: path.relative_to(base).parts)
    return _each_once(base, found)


def files_below(folder: Path) -> list[MatchedFile]:
    """The same of every file in a folder and below."""
    found = sorted(_expanded(folder, ("**",)), key=lambda path: path.relative_to(folder).parts)
    return _each_once(folder, found)


def matches_anything(pattern: str) -> bool:
    """Whether a glob, or a plain path, matches a file or folder; stops at the first."""
    base, parts = _fixed_part(pattern)
    return next(_expanded(base, parts, folders=True), None) is not None


def _each_once(base: Path, found: list[Path]) -> list[MatchedFile]:
    first: dict[Identity, Path] = {}
    for path in found:
        first.setdefault(_identity(path), path)
    return [MatchedFile(printable(path.relative_to(base).as_posix()), path) for path in first.values()]


def printable(path: str) -> str:
    """A path with what is no Unicode in it escaped, so that it can be printed, written and hashed."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _fixed_part(pattern: str) -> tuple[Path, tuple[str, ...]]:
    """(the folder that the pattern begins in, the names and wildcards below it, at least one)."""
    whole = Path(pattern).expanduser()
    base = Path(whole.anchor)
    parts = whole.parts[1:] if whole.anchor else whole.parts
    while len(parts) > 1 and _is_plain(base, parts[0]):
        base, parts = base / parts[0], parts[1:]
    return base, parts


def _is_plain(folder: Path, part: str) -> bool:
    if not _WILDCARDS.intersection(part):
        return True
    return not {"*", "?"}.intersection(part) and os.path.lexists(folder / part)


def _expanded(folder: Path, parts: tuple[str, ...], folders: bool = False) -> Iterator[Path]:
    """The files below a folder that match, some perhaps several times; with `folders`, those as well."""
    if not parts:
        if folder.is_file() or (folders and folder.exists()):
            yield folder
        return
    first, rest = parts[0], parts[1:]
    if first == "**":
        for below in _folders_below(folder):
            # Where `**` ends a pattern, it matches everything.
            yield from _expanded(below, rest or ("*",), folders)
    elif _is_plain(folder, first):
        yield from _expanded(folder / first, rest, folders)
    else:
        names = _names(folder)
        escaped = [name for name in names if fnmatch.fnmatchcase(name, first.replace("[", "[[]"))]
        for name in escaped or [name for name in names if fnmatch.fnmatchcase(name, first)]:
            if first.startswith(".") or not name.startswith("."):
                yield from _expanded(folder / name, rest, folders)


def _folders_below(folder: Path) -> Iterator[Path]:
    """A folder and all below it, each once however many links lead to it, or round in a circle."""
    seen: set[Identity] = set()
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        if not here.is_dir() or _identity(here) in seen:
            continue
        seen.add(_identity(here))
        yield here
        waiting.extend(here / name for name in reversed(_names(here)) if not name.startswith("."))


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))  # noqa: PTH208 (names alone)
    except OSError:  # no folder, or not ours to read
        return []


def _identity(path: Path) -> Identity:
    status = path.stat()
    return (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(path)
