"""Forms of answers where their marks are out of place; the numbers are the published trainers', doubled."""

from __future__ import annotations

import pytest

from opendllm.registries.discovery import installed_plugins
from opendllm.registries.gaps import Gap
from opendllm.registries.problems import Completion, Problem
from opendllm.registries.rewards import RewardContext


def value(form: str, text: str) -> float:
    reward = installed_plugins().rewards.get("format").build({"form": form})
    [found] = reward.values([Completion(Problem("p", Gap("")), 0, text)], RewardContext())
    return found


@pytest.mark.parametrize(
    ("text", "worth"),
    [
        ("<answer>\\boxed{3}", 1.0),  # nobody closed it
        ("<answer>3</answer> \\boxed{3}", 0.75),  # the box is elsewhere
        ("<answer>3</answer><answer>\\boxed{3}</answer>", 0.75),  # or in a second one
        ("\\boxed{3}<answer>", 0.75),
        ("\\boxed{3}</answer>", 0.5),
    ],
)
def test_the_box_of_an_answer_stands_in_its_first_section(text: str, worth: float) -> None:
    assert value("boxed-answer", text) == worth


def test_what_follows_the_first_of_two_ends_that_share_a_newline_is_counted() -> None:
    text = "<answer>\n<answer>\n</answer>\n</answer>\n"
    assert value("reasoning-answer-tags", text) == pytest.approx(0.25 - 0.002 * len("</answer>\n"))


@pytest.mark.parametrize(("answer", "worth"), [("٣", 1), ("²", 1), ("-3", 0), ("3.", 0), ("½", 0)])
def test_any_digits_are_an_integer(answer: str, worth: float) -> None:
    assert value("integer-answer", f"<answer>{answer}</answer>") == worth
