"""A judge's script: EvalPlus 0.3.1's differential tests, against a candidate in another process.

Sent to the sandbox as text. Each output is compared with the published solution's as
evalplus/eval/__init__.py@v0.3.1 does, its special oracles and its tolerances included. Where an oracle
needs a call's arguments, it gets those that were sent, not what the candidate made of them. Standard
library only; numpy is loaded where floats are near each other but not equal.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from opendllm.core.sandbox.values import decode, encode

if TYPE_CHECKING:
    from opendllm.core.sandbox.remote import Candidate

LONGEST_SECONDS = 60
FLOAT_TOLERANCE = 1e-6
REMEMBERED_ITEMS = 4_000_000
COMPARED_AS_SETS = frozenset(
    (
        *("similar_elements", "find_char_long", "common_in_nested_lists", "extract_singly"),
        *("larg_nnum", "intersection_array", "find_dissimilar", "Diff"),
    )
)
COMPARED_AS_NOT_NONE = frozenset(["check_str", "text_match_three", "text_starta_endb"])


class Prepared:
    """A problem, its inputs as the functions want them, and the expected outputs as they are needed."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.entry_point: str = data["entry_point"]
        self.is_mbpp: bool = data["is_mbpp"]
        self.atol: float = data["atol"]
        self._min_seconds: float = data["min_seconds"]
        self._factor: float = data["factor"]
        convert = CONVERSIONS.get(data["number"], _as_written) if self.is_mbpp else _as_written
        self.inputs = {part: [convert(given) for given in data[part]] for part in ("base", "plus")}
        namespace: dict[str, Any] = {}
        exec(compile(data["gold"], "<gold>", "exec", dont_inherit=True), namespace)  # noqa: S102
        self._gold: Callable[..., Any] = namespace[self.entry_point]
        self._expected: dict[str, tuple[list[Any], list[float]]] = _recalled(data.get("remembered"))

    def expected(self, part: str) -> tuple[list[Any], list[float]]:
        """The published solution's outputs, and the seconds that each call may take."""
        if part not in self._expected:
            outputs, limits = [], []
            for given in self.inputs[part]:
                arguments = deepcopy(given)
                started = time.monotonic()
                output = self._gold(*arguments)
                limits.append(max(self._min_seconds, self._factor * (time.monotonic() - started)))
                not_none = self.is_mbpp and self.entry_point in COMPARED_AS_NOT_NONE
                outputs.append(output is not None if not_none else output)
            self._expected[part] = outputs, limits
        return self._expected[part]

    def remembered(self) -> str | None:
        """The expected outputs of both parts as text, if they are there; see `written`."""
        return written(self._expected) if len(self._expected) == len(self.inputs) else None


def prepare(data: dict[str, Any]) -> Prepared:
    """See `Prepared`; the base tests' outputs are computed at once, so that a broken problem shows."""
    prepared = Prepared(data)
    prepared.expected("base")
    return prepared


def remember(prepared: Prepared) -> str | None:
    """See `Prepared.remembered`."""
    return prepared.remembered()


def judge(candidate: Candidate, prepared: Prepared, part: str) -> None:
    """Compare the outputs for all inputs of a part; raises at the first that is wrong."""
    outputs, limits = prepared.expected(part)
    # One second for starting the process and one for stopping it, as there.
    candidate.limit(min(LONGEST_SECONDS, sum(limits)) + 2)
    candidate.load()
    inputs = prepared.inputs[part]
    atol = prepared.atol
    found = candidate.stream(prepared.entry_point, inputs, limits)
    for given, expected, (output, exact) in zip(inputs, outputs, found, strict=True):
        if not prepared.is_mbpp and prepared.entry_point == "find_zero":
            assert abs(_polynomial(given[0], output)) <= atol, "not a zero"
            continue
        equal = _equal(prepared, given, output, expected, atol)
        if atol == 0 and _is_floats(expected):
            atol = FLOAT_TOLERANCE  # from here on for all of the part's outputs, as there
        if not equal and atol != 0:
            assert exact, "a wrong type"
            _assert_close(output, expected, atol)
        else:
            assert equal, "a wrong output"


def _recalled(text: str | None) -> dict[str, tuple[list[Any], list[float]]]:
    """What `Prepared.remembered` wrote; nothing where that is damaged."""
    try:
        return {part: decode(found, _no_object) for part, found in json.loads(text or "{}").items()}
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return {}


def written(expected: dict[str, tuple[list[Any], list[float]]]) -> str | None:
    """Part -> outputs and seconds, as the text that `prepare` takes; None where many or no plain values."""
    if not _is_small(expected):
        return None
    try:
        return json.dumps({part: encode(found, _no_handle) for part, found in expected.items()})
    except TypeError:
        return None


def _is_small(value: Any) -> bool:
    """Whether it has no more than so many items and characters."""
    left, waiting = REMEMBERED_ITEMS, [value]
    while waiting and left > 0:
        item = waiting.pop()
        if isinstance(item, str | bytes):
            left -= len(item) // 8
        elif isinstance(item, int):
            left -= item.bit_length() // 64
        elif isinstance(item, dict):
            waiting += [*item.keys(), *item.values()]
        elif isinstance(item, list | tuple | set | frozenset):
            left -= len(item)
            waiting += item if left > 0 else ()
    return left > 0


def _no_handle(value: Any) -> int:
    raise TypeError(f"{type(value).__name__} can't be written down")


def _no_object(number: int) -> Any:
    raise ValueError(number)


def _equal(prepared: Prepared, given: Sequence[Any], output: Any, expected: Any, atol: float) -> bool:
    """Whether the output is right as it is, by the problem's own oracle where it has one."""
    equal = bool(output == expected)
    if not prepared.is_mbpp:
        return equal
    match prepared.entry_point:
        case "are_equivalent":
            return True
        case "sum_div":
            return equal or output == 0
        case "surface_Area":
            return equal or abs(output - _pyramid_surface(*given)) <= atol
        case "digit_distance_nums":
            return equal or output == _digit_distance(*given)
        case name if name in COMPARED_AS_SETS:
            return set(output) == set(expected)
        case name if name in COMPARED_AS_NOT_NONE:
            return bool((output if isinstance(output, bool) else output is not None) == expected)
    return equal


def _is_floats(value: Any) -> bool:
    if isinstance(value, list | tuple) and value:
        return all(isinstance(item, float) for item in value)
    return isinstance(value, float)


def _assert_close(output: Any, expected: Any, atol: float) -> None:
    assert type(output) is type(expected), "a wrong type"
    if isinstance(expected, list | tuple):
        assert len(output) == len(expected), "a wrong length"
    import numpy

    assert numpy.allclose(output, expected, rtol=1e-07, atol=atol), "a wrong output"


def _polynomial(coefficients: Sequence[float], x: float) -> float:
    return sum(coefficient * math.pow(x, power) for power, coefficient in enumerate(coefficients))


def _pyramid_surface(base: float, height: float) -> int:
    """With the height measured from the base to the apex."""
    slant = math.sqrt((base / 2) ** 2 + height**2)
    return round(base**2 + 4 * (base * slant) / 2)


def _digit_distance(first: int, second: int) -> int:
    """With zeros before the shorter number's digits."""
    width = max(len(str(first)), len(str(second)))
    pairs = zip(str(first).zfill(width), str(second).zfill(width), strict=True)
    return sum(abs(int(a) - int(b)) for a, b in pairs)


# JSON has no tuples, sets and complex numbers: what each task's arguments are really made of.


def _as_written(given: Any) -> Any:
    return given


def _tuples(given: Any, depth: int) -> Any:
    """Lists `depth` levels below become tuples, and nothing else changes."""
    return tuple(given) if depth == 0 else [_tuples(item, depth - 1) for item in given]


def _all_tuples(given: Any) -> Any:
    return tuple(_all_tuples(item) for item in given) if isinstance(given, list) else given


def _each_a_tuple(given: Any) -> Any:
    return _tuples(given, 1)


def _each_of_tuples(given: Any) -> Any:
    return _tuples(given, 2)


def _tuple_of_tuples(given: Any) -> Any:
    return [tuple(tuple(item) for item in argument) for argument in given]


def _first_of_tuples(given: Any) -> Any:
    return [[tuple(item) for item in given[0]], given[1]]


def _second_a_tuple(given: Any) -> Any:
    return [given[0], tuple(given[1])]


def _first_a_tuple(given: Any) -> Any:
    return [tuple(given[0]), *given[1:]]


def _sets(given: Any) -> Any:
    return [[set(item) if isinstance(item, list) and item else {} for item in given[0]]]


def _lists_in_a_tuple(given: Any) -> Any:
    return [tuple(tuple(item) if isinstance(item, list) else item for item in given[0])]


def _values_of_tuples(given: Any) -> Any:
    return [{key: tuple(value) for key, value in given[0].items()}, *given[1:]]


CONVERSIONS: dict[int, Callable[[Any], Any]] = {
    number: convert
    for convert, numbers in {
        _each_a_tuple: (
            *(2, 116, 132, 143, 222, 261, 273, 394, 399, 421, 424),
            *(429, 470, 560, 579, 596, 616, 630, 726, 740, 744, 809),
        ),
        _each_of_tuples: (63, 64, 70, 94, 120, 237, 272, 299, 400, 409, 417, 438, 473, 614, 780),
        _first_of_tuples: (75, 413, 444, 753),
        _second_a_tuple: (106, 750),
        _sets: (115,),
        lambda given: (float(given[0]), complex(given[1])): (124,),
        _first_a_tuple: (250, 307, 405, 446, 617, 720, 763, 808),
        lambda given: [complex(given[0])]: (252,),
        _tuple_of_tuples: (259, 401, 445),
        _lists_in_a_tuple: (278,),
        _values_of_tuples: (722,),
        _all_tuples: (580, 615, 791),
    }.items()
    for number in numbers
}
"""Number of an MBPP+ task -> how its arguments are made (evalplus/data/mbpp.py@v0.3.1)."""
