"""Values between judge and candidate: exact, flattened to built-in types, and nothing that acts."""

from __future__ import annotations

import json
import math
from collections import Counter, OrderedDict, defaultdict, namedtuple
from datetime import date, timedelta
from decimal import Decimal
from enum import IntEnum
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opendllm.core.sandbox.values import decode, encode, is_exact

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.complex_numbers(allow_nan=False)
    | st.text(st.characters())
    | st.binary()
    | st.fractions()
    | st.dates()
)
HASHABLE = SCALARS | st.tuples(SCALARS, SCALARS) | st.frozensets(SCALARS, max_size=3)
VALUES = st.recursive(
    HASHABLE,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(SCALARS, inner, max_size=4) | st.tuples(inner)
    ),
    max_leaves=12,
) | st.sets(HASHABLE, max_size=4)


def over_the_wire(value: Any) -> Any:
    held: list[Any] = []

    def handle(thing: Any) -> int:
        held.append(thing)
        return len(held) - 1

    return decode(json.loads(json.dumps(encode(value, handle))), held.__getitem__)


@given(VALUES)
def test_every_plain_value_comes_back_as_it_was(value: Any) -> None:
    back = over_the_wire(value)
    assert back == value
    assert type(back) is type(value)


def test_numbers_keep_sign_size_and_kind() -> None:
    assert math.copysign(1, over_the_wire(-0.0)) == -1
    assert math.isnan(over_the_wire(math.nan))
    assert over_the_wire([1, True, 1.0, -(3**9000)]) == [1, True, 1.0, -(3**9000)]
    assert [type(item) for item in over_the_wire([1, True, 1.0])] == [int, bool, float]
    assert over_the_wire("\ud800") == "\ud800"


class Colour(IntEnum):
    RED = 3


Point = namedtuple("Point", "x y")


@pytest.mark.parametrize(
    ("value", "flat"),
    [
        (Counter("aab"), {"a": 2, "b": 1}),
        (OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
        (defaultdict(list, {"k": [1]}), {"k": [1]}),
        (Point(1, 2), (1, 2)),
        (Colour.RED, 3),
        (np.float64(0.5), 0.5),
        (np.int64(7), 7),
        (np.bool_(True), True),
    ],
)
def test_subclasses_are_what_they_derive_from(value: Any, flat: Any) -> None:
    back = over_the_wire([value])[0]
    assert back == flat
    assert type(back) is type(flat)
    assert not is_exact(value)
    assert is_exact(flat)


@pytest.mark.parametrize(
    "value", [range(1, 9, 2), Decimal("0.10"), Fraction(1, 3), date(2024, 2, 29), timedelta(1)]
)
def test_values_of_the_standard_library_come_back(value: Any) -> None:
    assert over_the_wire(value) == value


def test_a_subclass_that_lies_about_itself_is_read_by_its_base() -> None:
    class Liar(int):
        def __eq__(self, other: object) -> bool:
            return True

        def __hash__(self) -> int:
            return 0

        def __pos__(self) -> int:
            return 99

    class Longer(list[int]):
        def __iter__(self) -> Any:
            return iter([1, 2, 3])

    assert over_the_wire(Liar(5)) == 5
    assert over_the_wire(Liar(5)) != 6
    assert over_the_wire(Longer([7])) == [7]


def test_other_objects_are_handles_and_come_back_as_themselves() -> None:
    thing = object()
    assert over_the_wire([thing])[0] is thing
    deep: list[Any] = []
    deep.append(deep)
    assert over_the_wire(deep) is not None  # what contains itself ends in a handle


@pytest.mark.parametrize(
    "written", [{"t": 5}, {"zz": []}, {"range": ["a"]}, {"d": [[{"d": []}, 1]]}, {}, {"a": 1, "b": 2}]
)
def test_nothing_else_is_a_value(written: Any) -> None:
    with pytest.raises((ValueError, TypeError, LookupError)):
        decode(written, [].__getitem__)
