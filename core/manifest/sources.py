"""YAML with a memory: plain data, and for each key the file, line and column it came from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from opendllm.registries.errors import UserError

KeyPath = tuple[str | int, ...]
_WRITTEN_KEY = re.compile(r"[^\s:,{}\[\]]+")


@dataclass(frozen=True)
class Location:
    """Where something was said."""

    source: str
    line: int | None = None
    column: int | None = None
    is_setting: bool = False

    def __str__(self) -> str:
        return self.source if self.line is None else f"{self.source}:{self.line}:{self.column}"


@dataclass
class Source:
    """A tree of plain data and the location of each of its keys.

    Attributes:
        data: nested dicts, lists and scalars.
        locations: by key path.
        removed: key paths that a patch set to null.
        covered: what a patch laid a mapping over that was none, and where that was said.
    """

    data: dict[str, Any]
    locations: dict[KeyPath, Location]
    removed: set[KeyPath] = field(default_factory=set)
    covered: dict[KeyPath, tuple[Any, Location]] = field(default_factory=dict)

    def location(self, path: KeyPath) -> Location:
        """Where `path` was said, or else the nearest key above it."""
        while path and path not in self.locations:
            path = path[:-1]
        return self.locations[path]

    def part(self, *path: str) -> Source:
        """The mapping at `path`, as a source of its own."""
        data: Any = self.data
        for key in path:
            data = data[key]
        depth = len(path)
        locations = {key[depth:]: location for key, location in self.locations.items() if key[:depth] == path}
        covered = {key[depth:]: what for key, what in self.covered.items() if key[:depth] == path}
        return Source(data if data is not None else {}, locations, covered=covered)


def read_yaml(path: Path) -> Source:
    """Read a YAML mapping.

    Raises:
        UserError: the file is missing, isn't YAML, has a key twice or one that is read otherwise than it is
            written, or isn't a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
        document = YAML(typ="rt").load(text)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start})") from error
    except MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        raise UserError(f"{where}: not valid YAML: {error.problem}") from error
    except YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(document, CommentedMap):
        raise UserError(f"{path}:1:1: a manifest is a mapping, this is {_kind(document)}")
    locations: dict[KeyPath, Location] = {(): Location(str(path), 1, 1)}
    return Source(_plain(document, (), _File(str(path), text.split("\n")), locations), locations)


def parse_value(text: str) -> Any:
    """The value of a `--set` or `-o` argument, read as YAML.

    Raises:
        UserError: it isn't.
    """
    try:
        return _plain_value(YAML(typ="safe", pure=True).load(text))
    except YAMLError as error:
        raise UserError(f"{text!r} is not a YAML value") from error


def merge(base: Source, patch: Source) -> Source:
    """`patch` over `base`: mappings key by key, anything else whole; null removes."""
    merged = Source({}, dict(base.locations), set(base.removed), {**patch.covered, **base.covered})
    merged.data = _merge(base.data, patch.data, (), merged, patch.locations)
    return merged


def override(base: Source, key: str, value: Any) -> Source:
    """`base` with one dotted key replaced; nothing is put into a section that a variant removed.

    Raises:
        UserError: the key goes through something that isn't a mapping or a list.
    """
    path: KeyPath = tuple(int(part) if part.isdecimal() else part for part in key.split("."))
    if any(path[: len(gone)] == gone for gone in base.removed if path != gone or isinstance(value, dict)):
        return base
    location = Location(f"--set {key}", is_setting=True)
    data = _plain_value(base.data)
    node: Any = data
    for depth, part in enumerate(path[:-1]):
        if isinstance(node, dict):
            node = node.setdefault(part, {})
        elif isinstance(node, list) and isinstance(part, int) and part < len(node):
            node = node[part]
        else:
            raise UserError(f"--set {key}: {'.'.join(map(str, path[:depth]))} has no {part!r}")
    last = path[-1]
    fits = isinstance(node, dict) or (isinstance(node, list) and isinstance(last, int) and last < len(node))
    if not fits:
        raise UserError(f"--set {key}: {'.'.join(map(str, path[:-1]))} has no {last!r}")
    node[last] = value
    locations = {known: at for known, at in base.locations.items() if known[: len(path)] != path}
    locations[path] = location
    return Source(data, locations, base.removed, base.covered)


def _merge(
    base: Mapping[str, Any],
    patch: Mapping[str, Any],
    path: KeyPath,
    whole: Source,
    patch_locations: Mapping[KeyPath, Location],
) -> dict[str, Any]:
    """`patch` over `base`, both at `path`; what `whole` knows of its keys is brought up to date."""
    merged = dict(base)
    for key, value in patch.items():
        here = (*path, key)
        under = merged.get(key)
        if value is None:
            merged.pop(key, None)
            whole.removed.add(here)
        elif isinstance(value, dict) and isinstance(under, dict):
            merged[key] = _merge(under, value, here, whole, patch_locations)
            continue
        else:
            if isinstance(value, dict) and under is not None:
                whole.covered.setdefault(here, (under, whole.location(here)))
            merged[key] = value
        for known in [known for known in whole.locations if known[: len(here)] == here]:
            del whole.locations[known]
        whole.locations.update({k: at for k, at in patch_locations.items() if k[: len(here)] == here})
    return merged


@dataclass(frozen=True)
class _File:
    name: str
    lines: list[str]

    def refuse_other_key(self, key: object, line: int, column: int) -> None:
        """Unquoted, 1.10 is the number 1.1 and 0x10 is 16: a variant would be called otherwise."""
        if isinstance(key, str) or line >= len(self.lines):
            return
        written = _WRITTEN_KEY.match(self.lines[line], column)
        if written is not None and written[0] != str(key):
            where = f"{self.name}:{line + 1}:{column + 1}"
            raise UserError(f"{where}: the key {written[0]} is read as {key}: put it into quotes")


def _plain(node: Any, path: KeyPath, source: _File, locations: dict[KeyPath, Location]) -> Any:
    if isinstance(node, CommentedMap):
        plain = {}
        for key, value in node.items():
            here = (*path, str(key))
            if key in (node.lc.data or ()):  # what `<<: *anchor` brings has no place of its own
                line, column = node.lc.key(key)
                source.refuse_other_key(key, line, column)
                locations[here] = Location(source.name, line + 1, column + 1)
            plain[str(key)] = _plain(value, here, source, locations)
        return plain
    if isinstance(node, CommentedSeq):
        items = []
        for index, value in enumerate(node):
            line, column = node.lc.item(index)
            locations[(*path, index)] = Location(source.name, line + 1, column + 1)
            items.append(_plain(value, (*path, index), source, locations))
        return items
    return _plain_value(node)


def _plain_value(node: Any) -> Any:
    """A copy in plain Python types; what JSON does not know, such as a date, as text."""
    if isinstance(node, dict):
        return {str(key): _plain_value(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_plain_value(value) for value in node]
    if isinstance(node, bool) or node is None:
        return node
    for kind in (int, float, str):
        if isinstance(node, kind):
            return kind(node)
    return str(node)


def _kind(document: Any) -> str:
    if document is None:
        return "empty"
    return "a list" if isinstance(document, CommentedSeq) else "a single value"
