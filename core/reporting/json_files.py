"""Reads JSON that another process wrote, perhaps not to its end. Numbers that aren't finite become None."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from opendllm.core.foundation.json_lines import json_lines
from opendllm.registries.errors import UserError

EVALUATE_AGAIN = "evaluate this variant again"


def read_object(path: Path, advice: str = EVALUATE_AGAIN) -> dict[str, Any]:
    """The JSON object in a file.

    Args:
        path: of the file.
        advice: what to do where it is damaged.

    Raises:
        UserError: the file can't be read, or holds something else.
    """
    try:
        value = _finite(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON ({error}): {advice}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: holds no JSON object: {advice}")
    return value


def read_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The objects of a .jsonl file, and how many lines before the last one are none.

    A process that is killed leaves half a last line, and its successor appends to it: both are
    ordinary, so neither is an error.

    Raises:
        UserError: the file can't be read.
    """
    lines = list(json_lines(path))
    unreadable = sum(line.issue is not None for line in lines[:-1])
    return [_finite(line.content) for line in lines if line.issue is None], unreadable


def as_number(value: object) -> float | None:
    """A finite number, or None; truth values are not numbers."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # a whole number beyond floats
        return None


def as_text(value: object) -> str | None:
    """A string, or None."""
    return value if isinstance(value, str) else None


def as_integer(value: object) -> int | None:
    """A whole number, or None."""
    number = as_number(value)
    return None if number is None else int(number)


def get_object(values: Mapping[str, Any], key: str, path: Path) -> Mapping[str, Any]:
    """The object under `key`, empty if there is none.

    Raises:
        UserError: it is something else; the message names `path`.
    """
    value = values.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UserError(f"{path}: {key!r} must be a JSON object, not {type(value).__name__}")
    return value


def get_texts(values: Mapping[str, Any], key: str, path: Path) -> tuple[str, ...]:
    """The list of strings under `key`, empty if there is none.

    Raises:
        UserError: it is something else; the message names `path`.
    """
    value = values.get(key)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise UserError(f"{path}: {key!r} must be a list of strings")
    return tuple(value)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return as_number(value) if isinstance(value, float) else value
