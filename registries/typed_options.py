"""Options that any value would do for."""

from __future__ import annotations

import collections.abc
import inspect
import typing
from typing import Any, TypeVar

from pydantic import BaseModel

from opendllm.registries.options import PluginOptions

_CONTAINERS = (
    dict,
    frozenset,
    list,
    set,
    tuple,
    type,
    collections.abc.Iterable,
    collections.abc.Mapping,
    collections.abc.Sequence,
)
"""What says nothing of its items unless it is written with their types."""


def untyped_options(options: type[PluginOptions]) -> list[str]:
    """Names of the options that are, whole or in part, without a type: pydantic checks nothing there."""
    return [
        name for name, field in options.model_fields.items() if _takes_anything(field.annotation, (options,))
    ]


def _takes_anything(annotation: Any, inside: tuple[type[BaseModel], ...]) -> bool:
    if annotation in (Any, object) or isinstance(annotation, TypeVar):
        return True
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if not arguments:
        if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
            return annotation not in inside and any(
                _takes_anything(field.annotation, (*inside, annotation))
                for field in annotation.model_fields.values()
            )
        return (origin or annotation) in _CONTAINERS
    if origin is typing.Literal:
        return False
    if origin is typing.Annotated:
        arguments = arguments[:1]
    return any(_takes_anything(each, inside) for each in arguments if each not in (..., None))
