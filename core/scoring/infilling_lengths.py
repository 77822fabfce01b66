"""The lengths that infilling is asked at, and how each way of asking is called. Imports nothing heavy."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field

from opendllm.registries.benchmarks import GenerationRequest

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


def at_each_length(request: GenerationRequest, lengths: Iterable[Length]) -> list[GenerationRequest]:
    """The request at every length, each in a setting of that name."""
    return [
        replace(
            request,
            gap=replace(request.gap, length=None if length == "oracle" else length),
            oracle_length=length == "oracle",
            setting=setting_of(length),
        )
        for length in lengths
    ]


def shown_settings(settings: Sequence[str]) -> list[str]:
    """The settings to show first: where several lengths are fixed, their average instead of them."""
    fixed = fixed_lengths(settings)
    if len(fixed) < 2:
        return list(settings)
    return [*(setting for setting in settings if setting not in fixed), averaged_setting(fixed.values())]


def fixed_lengths(settings: Iterable[str]) -> dict[str, int]:
    """Setting -> its length in tokens, of those that are asked at a fixed one."""
    return {setting: int(match[1]) for setting in settings if (match := _FIXED.fullmatch(setting))}
