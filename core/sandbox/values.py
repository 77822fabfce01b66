"""Python values as JSON, exactly, and nothing but values. Standard library only.

Null, booleans, numbers, strings and lists are JSON's own; every other value is an object with one key,
which names its type. A subclass is written as the built-in type it derives from, read by that type's own
methods: so `Counter` compares as a dict does, and an `__eq__` that is always true is left behind. A value
of any other type is written as a handle: a number that its owner can turn back into the object.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

_PLAIN = frozenset({type(None), bool, int, float, str})
_HUGE = 1 << 4096
"""Integers from here on are written in hexadecimal: Python bounds the digits of decimal ones."""
MAX_DEPTH = 400
"""Of nested containers; deeper values are handles."""

Handles = Callable[[Any], int]
Objects = Callable[[int], Any]


def encode(value: Any, handle: Handles, depth: int = 0) -> Any:
    """What `json.dumps` can write.

    Args:
        value: any object.
        handle: makes the number that stands for an object that is no value.
        depth: of the containers around it.
    """
    kind = type(value)
    if kind is int:
        return value if -_HUGE < value < _HUGE else {"i": hex(value)}
    if kind in _PLAIN:
        return value
    if depth > MAX_DEPTH:
        return {"h": handle(value)}
    items: Iterator[Any] | None = None
    if isinstance(value, list):
        items = list.__iter__(value)
    elif isinstance(value, tuple):
        items = tuple.__iter__(value)
    if items is not None:
        written = [  # an item that is written as it is costs no call: some lists have a million
            item
            if (kind := type(item)) in _PLAIN and (kind is not int or -_HUGE < item < _HUGE)
            else encode(item, handle, depth + 1)
            for item in items
        ]
        return written if isinstance(value, list) else {"t": written}
    if isinstance(value, dict):
        pairs = [
            [encode(key, handle, depth + 1), encode(item, handle, depth + 1)]
            for key, item in dict.items(value)
        ]
        return {"d": pairs}
    return _encode_rarer(value, handle, depth)


def _encode_rarer(value: Any, handle: Handles, depth: int) -> Any:
    if isinstance(value, int):
        return encode(int.__pos__(value), handle)
    if isinstance(value, float):
        return float.__pos__(value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, frozenset):
        return {"f": [encode(item, handle, depth + 1) for item in frozenset.__iter__(value)]}
    if isinstance(value, set):
        return {"s": [encode(item, handle, depth + 1) for item in set.__iter__(value)]}
    if isinstance(value, complex):
        return {"c": [complex.real.__get__(value), complex.imag.__get__(value)]}
    if isinstance(value, bytes | bytearray):
        key = "b" if isinstance(value, bytes) else "ba"
        return {key: base64.b85encode(bytes(memoryview(value))).decode("ascii")}
    kind = type(value)
    if kind in _REBUILT and getattr(value, "tzinfo", None) is None:
        name, take_apart = _REBUILT[kind]
        return {name: encode(take_apart(value), handle, depth + 1)}
    if kind.__module__ == "numpy" and hasattr(kind, "item") and kind.__name__ != "ndarray":
        return encode(value.item(), handle, depth + 1)
    return {"h": handle(value)}


_REBUILT: dict[type, tuple[str, Callable[[Any], Any]]] = {
    range: ("range", lambda value: [value.start, value.stop, value.step]),
    Decimal: ("Decimal", lambda value: [str(value)]),
    Fraction: ("Fraction", lambda value: [value.numerator, value.denominator]),
    datetime: ("datetime", lambda value: [*value.timetuple()[:6], value.microsecond]),
    date: ("date", lambda value: [value.year, value.month, value.day]),
    time: ("time", lambda value: [value.hour, value.minute, value.second, value.microsecond]),
    timedelta: ("timedelta", lambda value: [value.days, value.seconds, value.microseconds]),
    type(Ellipsis): ("Ellipsis", lambda value: []),
}
_BUILD: dict[str, Callable[..., Any]] = {
    "range": range,
    "Decimal": Decimal,
    "Fraction": Fraction,
    "datetime": datetime,
    "date": date,
    "time": time,
    "timedelta": timedelta,
    "Ellipsis": lambda: Ellipsis,
}


def decode(written: Any, object_of: Objects) -> Any:
    """The value that `encode` wrote.

    Args:
        written: what `json.loads` read.
        object_of: turns a handle's number into an object.

    Raises:
        ValueError, TypeError, LookupError, RecursionError, ArithmeticError: nothing `encode` writes.
    """
    kind = type(written)
    if kind is list:
        return [item if type(item) in _PLAIN else decode(item, object_of) for item in written]
    if kind in _PLAIN:
        return written
    ((key, content),) = written.items()
    match key:
        case "t":
            return tuple(decode(content, object_of))
        case "d":
            return {decode(name, object_of): decode(item, object_of) for name, item in content}
        case "s":
            return set(decode(content, object_of))
        case "f":
            return frozenset(decode(content, object_of))
        case "i":
            return int(content, 16)
        case "c":
            real, imaginary = content
            return complex(real, imaginary)
        case "b":
            return base64.b85decode(content)
        case "ba":
            return bytearray(base64.b85decode(content))
        case "h":
            return object_of(int(content))
    return _BUILD[key](*decode(content, object_of))


def is_exact(value: Any) -> bool:
    """Whether the value's own type, its items' aside, is what `decode` gives back."""
    return type(value) in _EXACT


_EXACT = frozenset({*_PLAIN, list, tuple, dict, set, frozenset, complex, bytes, bytearray, *_REBUILT})
