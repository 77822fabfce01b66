"""What pydantic finds wrong with options, in a user's words."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, Tag, ValidationError

from opendllm.registries.errors import UserError
from opendllm.registries.registry import did_you_mean

_KINDS = {"model_type": "mapping", "dict_type": "mapping", "list_type": "list", "tuple_type": "list"}
ModelT = TypeVar("ModelT", bound=BaseModel)


@dataclass(frozen=True)
class OptionError:
    """One thing that is wrong.

    Attributes:
        path: keys and indices that lead to it.
        message: what, with the value that was given.
    """

    path: tuple[str | int, ...]
    message: str


def option_errors(error: ValidationError, model: type[BaseModel]) -> Iterator[OptionError]:
    """All that is wrong, in pydantic's order.

    Where a union's alternatives have tags, those are written in angle brackets: they are no keys.

    Args:
        error: what validating against `model` raised.
        model: knows the keys that may be suggested.
    """
    for detail in error.errors():
        loc = detail["loc"]
        path = tuple(part for part in loc if not _is_tag(part))
        if detail["type"] == "extra_forbidden":
            path = (*(part for part in loc[:-1] if not _is_tag(part)), loc[-1])
            message = f"unknown key; {did_you_mean(str(loc[-1]), _known_keys(model, loc[:-1]))}"
        elif detail["type"] == "missing":
            message = "is missing"
        elif detail["type"] in _KINDS:
            message = f"should be a {_KINDS[detail['type']]} (given: {detail['input']!r})"
        else:
            message = detail["msg"].removeprefix("Value error, ")
            if not isinstance(detail["input"], dict | list):
                message += f" (given: {detail['input']!r})"
        yield OptionError(path, message)


def checked_options(model: type[ModelT], given: Mapping[str, Any]) -> ModelT:
    """`given` as a model, where they come from Python or the command line and not from a manifest.

    Raises:
        UserError: one is unknown or out of range; the first one is named.
    """
    try:
        return model.model_validate(dict(given))
    except ValidationError as error:
        first = next(option_errors(error, model))
        name = ".".join(map(str, first.path))
        raise UserError(f"option {name}: {first.message}" if name else first.message) from error


def _is_tag(part: str | int) -> bool:
    return isinstance(part, str) and part.startswith("<") and part.endswith(">")


def _known_keys(model: type[BaseModel], path: tuple[str | int, ...]) -> list[str]:
    """The keys that the mapping at `path` may have; its tags choose between a union's alternatives."""
    current: Any = model
    for part in path:
        if _is_tag(part):
            current = next(
                option for option in typing.get_args(current) if Tag(str(part)) in option.__metadata__
            )
            current = typing.get_args(current)[0]
        elif isinstance(part, int):
            current = next((a for a in typing.get_args(current) if a is not Ellipsis), None)
        elif isinstance(current, type) and issubclass(current, BaseModel) and part in current.model_fields:
            current = current.model_fields[part].annotation
        tagged = any(hasattr(option, "__metadata__") for option in typing.get_args(current))
        if typing.get_origin(current) in (types.UnionType, typing.Union) and not tagged:
            current = next(option for option in typing.get_args(current) if option is not type(None))
    if isinstance(current, type) and issubclass(current, BaseModel):
        return list(current.model_fields)
    return []
