"""JSON lines: each object with its line's number, or what is wrong with the line."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opendllm.core.foundation.packed_files import UNREADABLE, open_unpacked, why_unreadable
from opendllm.registries.errors import UserError, first_line

_ARRAY = "begins a JSON array, where each line should be an object: `jq -c '.[]' FILE` makes such lines of it"


@dataclass(frozen=True)
class JsonLine:
    """A line of a file that isn't blank.

    Attributes:
        number: from 1.
        content: its object; empty where there is an issue.
        issue: what is wrong with it, or None.
        complete: whether a newline ends it; what a killed writer left may lack one.
    """

    number: int
    content: dict[str, Any]
    issue: str | None = None
    complete: bool = True


def json_lines(path: Path) -> Iterator[JsonLine]:
    """The lines of a file, as it is or packed (see `open_unpacked`).

    Raises:
        UserError: the file can't be read at all, or only to some line, which is named.
    """
    number, opened = 0, False
    try:
        with open_unpacked(path) as file:
            opened = True
            for line in parsed_lines(file):
                number = line.number
                yield line
    except UNREADABLE as error:
        where = f"{path}:{number + 1}:" if opened else f"{path}"
        raise UserError(f"{where} cannot be read: {why_unreadable(error)}") from error


def parsed_lines(lines: Iterable[bytes]) -> Iterator[JsonLine]:
    """The same of lines from anywhere; a newline alone ends one, and a byte order mark is no part of it."""
    first = True
    for number, line in enumerate(lines, start=1):
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if line.strip():
            found = _parse(number, line)
            if first and found.issue is not None and line.lstrip().startswith(b"["):
                found = JsonLine(number, {}, _ARRAY, found.complete)
            first = False
            yield found


def _parse(number: int, line: bytes) -> JsonLine:
    complete = line.endswith(b"\n")
    try:
        content = json.loads(line.decode().rstrip("\r\n"))
    except UnicodeDecodeError as error:
        return JsonLine(number, {}, f"is not UTF-8 (byte {error.start})", complete)
    except json.JSONDecodeError as error:
        return JsonLine(number, {}, f"is not JSON ({error.msg}, column {error.colno})", complete)
    except (ValueError, RecursionError) as error:
        return JsonLine(number, {}, f"is not JSON ({first_line(error)})", complete)
    if not isinstance(content, dict):
        return JsonLine(number, {}, f"is no JSON object, but {type(content).__name__}", complete)
    return JsonLine(number, content, None, complete)
