"""What all that a user sets has in common, in a manifest, in Python or on the command line."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator


class FrozenOptions(BaseModel):
    """Immutable; unknown keys, numbers that are not finite, and booleans for numbers are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_boolean_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Python's True is 1, so `temperature: true` would be 1.0, and `gradient_clipping: false` none."""
        if isinstance(value, bool) and info.field_name is not None:
            kinds = set(_alternatives(cls.model_fields[info.field_name].annotation))
            if kinds & {int, float} and bool not in kinds:
                raise ValueError("should be a number, not true or false")
        return value


def _alternatives(annotation: Any) -> Iterator[Any]:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        yield from _alternatives(arguments[0])
    elif origin in (typing.Union, types.UnionType):
        for each in arguments:
            yield from _alternatives(each)
    elif origin is typing.Literal:
        yield from map(type, arguments)
    else:
        yield annotation
