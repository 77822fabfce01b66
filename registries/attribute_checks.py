"""What a plugin says of itself by attributes: looked at once it is made."""

from __future__ import annotations

import functools
import inspect
import sys
import typing
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from opendllm.registries.source_lines import where_attribute

_PLAIN = (bool, int, float, str)


def wrong_attribute(thing: object, contract: type) -> str | None:
    """What is wrong with the attributes that a contract gives types to; None where nothing is.

    Args:
        thing: an instance of the contract.
        contract: the class that says which attributes there are.
    """
    cls = type(thing)
    for name, (is_right, wanted) in _attributes(contract).items():
        if isinstance(inspect.getattr_static(cls, name, None), property) and _is_property(contract, name):
            continue  # a call like others: its result is looked at when it is asked for
        try:
            value = getattr(thing, name)
        except AttributeError:
            return f"{cls.__name__} has no {name}, and {wanted} was expected{where_attribute(cls, name)}"
        if not is_right(value):
            return _described(name, value, wanted) + where_attribute(cls, name)
    return None


def wrong_class_attribute(options: type) -> str | None:
    """The same of an options model, which says some things of its plugin as a class."""
    for base in options.__mro__:
        if base.__module__.startswith("opendllm.registries."):
            for name, (is_right, wanted) in _class_attributes(base).items():
                value = getattr(options, name)
                if not is_right(value):
                    return _described(name, value, wanted) + where_attribute(options, name)
    return None


def _described(name: str, value: object, wanted: str) -> str:
    instead = f": write {(value,)!r}" if isinstance(value, str) and wanted.startswith("tuple[str") else ""
    return f"{name} is {value!r:.60}, and {wanted} was expected{instead}"


@functools.cache
def _class_attributes(base: type) -> Mapping[str, tuple[Callable[[Any], bool], str]]:
    found = {}
    for name, written in inspect.get_annotations(base).items():
        origin: Any = typing.get_origin(written)
        if origin is ClassVar and not name.startswith("_"):
            [hint] = typing.get_args(written)
            named = hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)
            found[name] = (_check_of(hint, {}), named.replace("typing.", ""))
    return found


@functools.cache
def _attributes(contract: type) -> Mapping[str, tuple[Callable[[Any], bool], str]]:
    """By name: what an attribute must be, and how the contract writes that."""
    known = {**vars(sys.modules[contract.__module__]), **_torch_names()}
    found = {}
    for name, written in inspect.get_annotations(contract).items():
        found[name] = (_check_of(written, known), str(written))
    for name, value in vars(contract).items():
        if isinstance(value, property) and value.fget is not None and not name.startswith("_"):
            written = inspect.get_annotations(value.fget)["return"]
            found[name] = (_check_of(written, known), str(written))
    return found


def _check_of(written: Any, known: Mapping[str, Any]) -> Callable[[Any], bool]:
    """Whether a value is of a type, as pydantic has it: a bool is no number, and a string no tuple."""
    hint: Any = typing.get_type_hints(type("_", (), {"__annotations__": {"it": written}}), dict(known))["it"]
    if isinstance(hint, type) and not typing.get_args(hint) and hint not in _PLAIN:
        return lambda value: isinstance(value, hint)
    adapter: TypeAdapter[Any] = TypeAdapter(hint, config=ConfigDict(strict=True))

    def is_right(value: Any) -> bool:
        try:
            adapter.validate_python(value)
        except ValidationError:
            return False
        return True

    return is_right


def _torch_names() -> Mapping[str, Any]:
    """What the contracts import for their annotations only; whoever has a module has loaded torch."""
    torch = sys.modules.get("torch")
    return {} if torch is None else {"torch": torch, "nn": torch.nn, "Tensor": torch.Tensor}


def _is_property(contract: type, name: str) -> bool:
    return isinstance(inspect.getattr_static(contract, name), property)
