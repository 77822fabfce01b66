"""The lengths that infilling is asked at, and how each way of asking is called. Imports nothing heavy."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field

Length = Annotated[int, Field(ge=1)] | Literal["oracle"]
"""A number of tokens, or "oracle" for the reference's own."""
STANDARD_LENGTHS: tuple[Length, ...] = ("oracle", 4, 8, 16, 32, 64)
"""The reference's own length, and those whose average is reported (DreamOn's evaluation)."""
_FIXED = re.compile(r"length-(\d+)")


def setting_of(length: Length) -> str:
    """The name of asking at a length: "oracle", "length-8"."""
    return "oracle" if length == "oracle" else f"length-{length}"


def averaged_setting(lengths: Iterable[int]) -> str:
    """The name of the average over fixed lengths, which says them all: "averaged-4-8-16-32-64"."""
    return "averaged-" + "-".join(map(str, sorted(lengths)))


def fixed_lengths(settings: Iterable[str]) -> dict[str, int]:
    """Setting -> its length in tokens, of those that are asked at a fixed one."""
    return {setting: int(match[1]) for setting in settings if (match := _FIXED.fullmatch(setting))}
