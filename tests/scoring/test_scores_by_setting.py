"""Metrics of each setting, their average over lengths, and the shares of odd outputs."""

from __future__ import annotations

import pytest

from opendllm.core.scoring.infilling_lengths import STANDARD_LENGTHS, setting_of
from opendllm.core.scoring.scores_by_setting import (
    lower_is_better,
    output_shares,
    parses_as_python,
    scores_by_setting,
)
from opendllm.registries.benchmarks import GeneratedText

AVERAGED = "averaged-4-8-16-32-64"


def test_each_length_is_named_and_the_fixed_ones_are_averaged() -> None:
    settings = [setting_of(length) for length in STANDARD_LENGTHS]
    assert settings == ["oracle", "length-4", "length-8", "length-16", "length-32", "length-64"]
    values = {setting: {"a": setting == "length-8", "b": True} for setting in settings}
    scores = scores_by_setting({"match": values}, ["a note"])
    assert list(scores.metrics) == [f"match_{setting}" for setting in (*settings, AVERAGED)]
    assert scores.metrics["match_oracle"].value == 0.5
    assert scores.metrics[f"match_{AVERAGED}"].value == pytest.approx((0.2 + 1) / 2)
    assert scores.per_task["a"][f"match_{AVERAGED}"] == pytest.approx(0.2)
    assert scores.per_task["a"]["match_length-8"] is True
    assert scores.notes == ("a note",)


def test_a_single_length_and_the_default_setting_have_no_average() -> None:
    scores = scores_by_setting({"match": {"length-8": {"a": 1.0}, "default": {"a": 0.0}}})
    assert list(scores.metrics) == ["match_length-8", "match"]


def test_the_average_takes_only_tasks_with_every_length() -> None:
    scores = scores_by_setting({"match": {"length-4": {"a": 1.0, "b": 0.0}, "length-8": {"a": 0.0}}})
    assert scores.metrics["match_averaged-4-8"].value == 0.5
    assert "match_averaged-4-8" not in scores.per_task["b"]


def test_intervals_hold_the_value_and_are_the_same_every_time() -> None:
    values = {"match": {"default": {str(task): task % 3 == 0 for task in range(90)}}}
    metric = scores_by_setting(values).metrics["match"]
    assert metric.low < metric.value < metric.high
    assert metric == scores_by_setting(values).metrics["match"]


def test_hidden_metrics_are_kept_task_by_task() -> None:
    scores = scores_by_setting({"passed": {"default": {"a": True}}}, hidden=["passed"])
    assert scores.metrics == {}
    assert scores.per_task == {"a": {"passed": True}}


def test_shares_of_empty_truncated_and_unparsable_outputs() -> None:
    texts = [(" \n", True), ("x = 1", True), ("x = (", False), ("y", None)]
    answers = [
        GeneratedText("a", "default", sample, text, ended=ended) for sample, (text, ended) in enumerate(texts)
    ]
    shares = output_shares(answers, lambda answer: parses_as_python(answer.text))
    assert shares == {
        "empty": {"default": {"a": 0.25}},
        "truncated": {"default": {"a": pytest.approx(1 / 3)}},
        "unparsable": {"default": {"a": 0.25}},
    }
    unknown = [GeneratedText("a", "default", 0, "x", form="completion")]
    assert set(output_shares(unknown)) == {"empty"}
    settings = [setting_of(length) for length in STANDARD_LENGTHS]
    scores = scores_by_setting({"empty": {setting: {"a": 1.0} for setting in settings}})
    assert set(scores.metrics) <= lower_is_better(settings)


@pytest.mark.parametrize(
    ("source", "parses"),
    [("x = '\\d'", True), ("x = (", False), ("a\0b", False), ("(" * 5000, False), ("x\n" * 600_000, False)],
    ids=["odd-escape", "open", "null", "deep", "long"],
)
def test_any_text_can_be_parsed_or_not(source: str, parses: bool) -> None:
    assert parses_as_python(source) is parses
