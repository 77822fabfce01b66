"""What pydantic finds wrong with options, in a user's words."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, Tag, ValidationError

from opendllm.registries.errors import UserError
from opendllm.registries.options import path_fields
from opendllm.registries.suggestions import did_you_mean

_KINDS = {"model_type": "mapping", "dict_type": "mapping", "list_type": "list", "tuple_type": "list"}
_WORD = re.compile(r"[\w./~][\w./~-]*")
"""What YAML takes for text without quotes, mostly: a plugin's name, a path."""
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
    details = error.errors()
    for detail in details:
        loc = detail["loc"]
        if detail["type"] == "too_short" and any(
            other["loc"][: len(loc)] == loc != other["loc"] for other in details
        ):
            continue  # pydantic doesn't count items that are wrong
        path = tuple(part for part in loc if not _is_tag(part))
        if detail["type"] == "extra_forbidden":
            path = (*(part for part in loc[:-1] if not _is_tag(part)), loc[-1])
            message = f"unknown key; {did_you_mean(str(loc[-1]), _known_keys(model, loc[:-1]))}"
        elif detail["type"] == "missing":
            message = "is missing"
        elif detail["type"] in _KINDS:
            message = f"should be a {_KINDS[detail['type']]} (given: {detail['input']!r})"
            wanted = _as_wanted(_type_at(model, loc), detail["input"])
            message += f": write {wanted}" if wanted else ""
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
    """The keys that the mapping at `path` may have."""
    found = _type_at(model, path)
    return list(found.model_fields) if _is_model(found) else []


def _type_at(model: type[BaseModel], path: tuple[str | int, ...]) -> Any:
    """What stands at `path`; its tags choose between a union's alternatives, of others it is the first."""
    current: Any = model
    for part in path:
        if _is_tag(part):
            current = next(
                option for option in typing.get_args(current) if Tag(str(part)) in option.__metadata__
            )
            current = typing.get_args(current)[0]
        elif isinstance(part, int):
            current = next((a for a in typing.get_args(current) if a is not Ellipsis), None)
        elif _is_model(current) and part in current.model_fields:
            current = current.model_fields[part].annotation
        tagged = any(hasattr(option, "__metadata__") for option in typing.get_args(current))
        if typing.get_origin(current) in (types.UnionType, typing.Union) and not tagged:
            current = next(option for option in typing.get_args(current) if option is not type(None))
    return current


def _as_wanted(wanted: Any, word: object) -> str | None:
    """A word in the form that is wanted, as YAML: `{name: p2}`; None where it can have none."""
    if not isinstance(word, str) or not _WORD.fullmatch(word):
        return None
    if wanted is str:
        return word
    if typing.get_origin(wanted) is tuple:
        item = _as_wanted(typing.get_args(wanted)[0], word)
        return item and f"[{item}]"
    if not _is_model(wanted):
        return None
    keys = [key for key, field in wanted.model_fields.items() if field.is_required()]
    keys = keys or [key for key, _ in path_fields(wanted)]
    if len(keys) != 1:
        return None
    field = wanted.model_fields[keys[0]]
    value = _as_wanted(field.annotation if field.is_required() else str, word)
    return value and f"{{{keys[0]}: {value}}}"


def _is_model(wanted: Any) -> typing.TypeGuard[type[BaseModel]]:
    return isinstance(wanted, type) and issubclass(wanted, BaseModel)
