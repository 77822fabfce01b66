"""The rewards of the published trainers (DiffuCoder, d1, dllm, open-r1, DAPO), text by text."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from opendllm.plugins.rewards.code_block import first_block
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.gaps import Gap
from opendllm.registries.problems import Completion, Problem
from opendllm.registries.rewards import RewardContext

from ..golden_vectors import Entry, Vectors, golden


def value(name: str, text: str, answer: str | None = None, **options: Any) -> float:
    reward = installed_plugins().rewards.get(name).build(options)
    problem = Problem("p", Gap(""), answer=answer)
    [found] = reward.values([Completion(problem, 0, text)], RewardContext())
    low, high = reward.bounds
    assert low <= found <= high
    return found


@golden("policy")
def test_one_python_block(vectors: Vectors) -> None:
    for case in vectors.expected["rewards"]["code_format_python"]:
        with Entry(case) as entry:
            text, what = entry.take("text"), entry.take("what")
            assert value("format", text) == entry.take("reward"), what
            assert first_block(text) == entry.take("extracted_code"), what


@golden("policy")
def test_one_block_of_another_language(vectors: Vectors) -> None:
    for case in vectors.expected["rewards"]["code_format_javascript"]:
        with Entry(case) as entry:
            text, what = entry.take("text"), entry.take("what")
            assert value("format", text, language="javascript") == entry.take("reward"), what


def test_a_language_is_of_code_blocks_only() -> None:
    with pytest.raises(ValidationError, match="language has no effect with form think-answer"):
        value("format", "", form="think-answer", language="javascript")


@golden("policy")
def test_think_and_answer(vectors: Vectors) -> None:
    for case in vectors.expected["rewards"]["think_answer"]:
        with Entry(case) as entry:
            text = entry.take("text")
            assert value("format", text, form="think-answer") == entry.take("format"), text
            assert value("format", text, form="think-answer-tags") == entry.take("tag_count"), text


@golden("policy")
def test_reasoning_and_answer(vectors: Vectors) -> None:
    """The published values are half of ours."""
    for case in vectors.expected["rewards"]["reasoning_answer"]:
        with Entry(case) as entry:
            text = entry.take("text")
            forms = {
                "strict_d1": "one-line",
                "soft_d1": "loose-one-line",
                "strict_dllm": "",
                "soft_dllm": "loose",
                "xml_count": "tags",
            }
            for key, form in forms.items():
                name = f"reasoning-answer-{form}".removesuffix("-")
                assert value("format", text, form=name) == pytest.approx(2 * entry.take(key)), (text, key)
            assert value("exact-match", text, "42", tag="answer") == entry.take("correct_answer_42") / 2, text
            assert value("format", text, form="integer-answer") == 2 * entry.take("integer"), text


@golden("policy")
def test_boxed_results(vectors: Vectors) -> None:
    for case in vectors.expected["rewards"]["math"]:
        with Entry(case) as entry:
            text = entry.take("text")
            assert value("math", text, entry.take("answer")) == entry.take("correct") / 2, text
            assert value("format", text, form="boxed-answer") == entry.take("format_dllm"), text
            entry.take("format_d1")  # never finds the box


@golden("policy")
def test_overlong_answers(vectors: Vectors) -> None:
    with Entry(vectors.expected["rewards"]["soft_overlong"]) as entry:
        options = {"max_tokens": entry.take("max_completion_length"), "buffer": entry.take("cache")}
        reward = installed_plugins().rewards.get("length").build(options)
        problem = Problem("p", Gap(""))
        answers = [Completion(problem, 0, "", (1,) * length) for length in entry.take("lengths")]
        assert list(reward.values(answers, RewardContext())) == pytest.approx(entry.take("rewards"))
