"""The comparison of MATH's answers, and of numbers where that is asked for."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from opendllm.plugins.rewards.math import boxed, number_of

from .test_golden_rewards import value

PIECES = [
    *(
        "\\frac",
        "\\dfrac",
        "\\tfrac",
        "{",
        "}",
        "{1}",
        "{2}",
        "1",
        "2",
        "34",
        "0.5",
        ".5",
        "/",
        "-",
        "=",
        "x=",
    ),
    *("\\sqrt", "\\left", "\\right", "(", ")", ",", " ", "\\!", "\\%", "%", "\\$", "\\text{ cm}", "^\\circ"),
    *("^{\\circ}", "\\pi", "a", "\n", "\\\\", "\\boxed", "\\boxed{", "$"),
]


@settings(deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=9).map("".join))
@example("\\boxed{\\frac{1}{2}}")
@example("\\frac{")
@example("")
def test_any_answer_equals_itself(text: str) -> None:
    assert value("math", text, text) == 1
    assert value("math", text, text, equal_numbers=True) == 1


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        ("\\boxed{1} and \\boxed{\\frac{a}{b}}.", "\\frac{a}{b}"),
        ("$\\boxed 9$ then", "9"),
        ("\\boxed{a{b}c} }", "a{b}c"),
        ("none", "none"),
        ("\\boxed{1} \\boxed{2", "\\boxed{1} \\boxed{2"),
        ("\\boxed[1]", "\\boxed[1]"),
        ("\\boxed{1} \\boxed[2]", "\\boxed{1} \\boxed[2]"),
    ],
)
def test_the_last_box_counts(text: str, inside: str) -> None:
    assert boxed(text) == inside


@pytest.mark.parametrize(
    ("one", "other", "same", "same_number"),
    [
        ("0.50", "\\frac12", False, True),
        ("1,000", "1000", False, True),
        ("-\\frac{2}{4}", "-0.5", False, True),
        ("\\frac{1}{3}", "0.333", False, False),
        ("1,00", "100", False, False),
        ("2", "3", False, False),
        ("\\frac{1}{0}", "\\frac{1}{0}", True, True),
        ("x+1", "x + 1", True, True),
        ("7/3", "\\dfrac73", True, True),
        ("90^\\circ", "90", True, True),
        ("9" * 5000, "9" * 5000, True, True),
        ("1e5", "100000", False, False),
    ],
)
def test_equal_numbers_are_equal_where_that_is_asked_for(
    one: str, other: str, same: bool, same_number: bool
) -> None:
    for left, right in ((one, other), (other, one)):
        assert value("math", left, right) == same
        assert value("math", left, right, equal_numbers=True) == same_number


def test_what_is_no_number_has_none() -> None:
    assert [number_of(each) for each in ("", "-", "x", "1.2.3", "\\frac{1}{0}", "١")] == [None] * 6
