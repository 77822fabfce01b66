"""Small functions that can be made up without end of names: each with words for it, a body, and tests.

They are composed of one or two steps on a whole number, a text or a list; the step's number or letter is part
of the function. One function in four is held out, by a hash of its prompt, so that both splits have the same
kinds and no function in common.
"""

from __future__ import annotations

import ast
import functools
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from opendllm.registries.corpora import Split

MOST_STEPS = 2
HELD_OUT_SHARE = 4
"""One in so many is held out."""


@dataclass(frozen=True)
class SyntheticFunction:
    """One function.

    Attributes:
        name: `add_3_then_times_2`.
        argument: its only one: `x`, `s` or `a`.
        words: what it does, for the docstring.
        body: the expression that it returns.
        steps: of how many it is composed, 1 or 2.
        examples: (argument, result) that tests check.
    """

    name: str
    argument: str
    words: str
    body: str
    steps: int
    examples: tuple[tuple[Any, Any], ...]

    @property
    def prompt(self) -> str:
        """Signature and docstring, up to where the body begins."""
        return f'def {self.name}({self.argument}):\n    """{self.words}"""\n'

    @property
    def solution(self) -> str:
        """What follows the prompt."""
        return f"    return {self.body}\n"

    @property
    def tests(self) -> tuple[str, ...]:
        """An assertion for each example."""
        return tuple(f"assert {self.name}({given!r}) == {found!r}" for given, found in self.examples)


@dataclass(frozen=True)
class _Step:
    """(part of the name, words, expression of `{}`)."""

    name: str
    words: str
    expression: str


_NUMBERS = range(1, 21)
_LETTERS = "abcdeors"
_GIVEN: dict[str, Sequence[Any]] = {
    "x": (0, 1, 2, 7, -3, 10),
    "s": ("", "a", "abc", "Road", "sees", "banana"),
    "a": ([], [1], [3, 1, 2], [5, 8, 5, -1], [0, 12, 4, 9]),
}


def synthetic_functions(split: Split, most_steps: int = MOST_STEPS) -> Iterator[SyntheticFunction]:
    """Every function of a split, always in the same order: those of one step, then the others, well mixed.

    Args:
        split: which.
        most_steps: that a function is composed of.
    """
    for each in _all():
        if each.steps <= most_steps and (_hash(each) % HELD_OUT_SHARE == 0) == (split == "held-out"):
            yield each


@functools.cache
def _all() -> tuple[SyntheticFunction, ...]:
    found = [
        function
        for steps_of in (_single, _pairs)
        for argument, steps in _steps().items()
        for function in steps_of(argument, steps)
        if _is_telling(function)
    ]
    return tuple(sorted(found, key=lambda each: (each.steps, _hash(each))))


def _hash(function: SyntheticFunction) -> int:
    digest = hashlib.blake2b(function.prompt.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def _is_telling(function: SyntheticFunction) -> bool:
    """Whether tests can tell it from a constant and from doing nothing."""
    results = [found for _, found in function.examples]
    return any(found != results[0] for found in results) and any(a != b for a, b in function.examples)


def _single(argument: str, steps: Sequence[_Step]) -> Iterator[SyntheticFunction]:
    for step in steps:
        yield _function(argument, (step,), f"{step.words}.", step.expression.format(argument))


def _pairs(argument: str, steps: Sequence[_Step]) -> Iterator[SyntheticFunction]:
    for first in steps:
        for second in steps:
            if first.name.partition("_")[0] != second.name.partition("_")[0]:
                inner = first.expression.format(argument)
                operand = isinstance(ast.parse(inner, mode="eval").body, ast.BinOp)
                body = second.expression.format(f"({inner})" if operand else inner)
                words = f"{first.words}, then {second.words[0].lower()}{second.words[1:]}."
                yield _function(argument, (first, second), words, body)


def _function(argument: str, steps: Sequence[_Step], words: str, body: str) -> SyntheticFunction:
    name = "_then_".join(step.name for step in steps)
    # Our own expressions, put together above.
    compute = eval(f"lambda {argument}: {body}", {})  # noqa: S307
    examples = tuple((given, compute(given)) for given in _GIVEN[argument])
    return SyntheticFunction(name, argument, words, body, len(steps), examples)


def _steps() -> dict[str, list[_Step]]:
    """Of each kind of argument, what keeps its kind."""
    numbers = [
        step
        for n in _NUMBERS
        for step in (
            _Step(f"add_{n}", f"Add {n}", f"{{}} + {n}"),
            _Step(f"subtract_{n}", f"Subtract {n}", f"{{}} - {n}"),
            _Step(f"times_{n}", f"Multiply by {n}", f"{{}} * {n}"),
            _Step(f"modulo_{n}", f"Take the remainder by {n}", f"{{}} % {n}"),
        )
    ]
    texts = [
        _Step("reverse", "Reverse the text", "{}[::-1]"),
        _Step("upper", "Make the text upper case", "{}.upper()"),
        _Step("lower", "Make the text lower case", "{}.lower()"),
        *(_Step(f"repeat_{n}", f"Repeat the text {n} times", f"{{}} * {n}") for n in _NUMBERS[1:4]),
        *(_Step(f"drop_{n}", f"Drop the first {n} letters", f"{{}}[{n}:]") for n in _NUMBERS[:4]),
        *(_Step(f"keep_{n}", f"Keep the first {n} letters", f"{{}}[:{n}]") for n in _NUMBERS[:4]),
        *(_Step(f"without_{c}", f"Leave out the letter {c}", f"{{}}.replace('{c}', '')") for c in _LETTERS),
    ]
    lists = [
        _Step("sort", "Sort the list", "sorted({})"),
        _Step("backwards", "Turn the list around", "{}[::-1]"),
        *(_Step(f"skip_{n}", f"Skip the first {n} items", f"{{}}[{n}:]") for n in _NUMBERS[:4]),
        *(_Step(f"take_{n}", f"Take the first {n} items", f"{{}}[:{n}]") for n in _NUMBERS[:4]),
        *(_Step(f"raise_{n}", f"Add {n} to every item", f"[y + {n} for y in {{}}]") for n in _NUMBERS),
        *(_Step(f"scale_{n}", f"Multiply every item by {n}", f"[y * {n} for y in {{}}]") for n in _NUMBERS),
        *(
            _Step(f"above_{n}", f"Keep items above {n}", f"[y for y in {{}} if y > {n}]")
            for n in _NUMBERS[:6]
        ),
    ]
    return {"x": numbers, "s": texts, "a": lists}
