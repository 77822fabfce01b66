"""AUP, and which variants are settings of one another."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from opendllm.core.reporting.collect import read_study
from opendllm.core.reporting.cost_tables import parallelism_table
from opendllm.core.reporting.machine_readable import render_json
from opendllm.core.reporting.parallelism import (
    accuracy_metric,
    accuracy_under_parallelism,
    accuracy_weight,
    families,
)
from opendllm.core.reporting.tradeoff_figures import frontier

from ..golden_vectors import Vectors, golden
from .conftest import FakeRun


def test_aup_is_the_weighted_area_worked_out_by_hand() -> None:
    points = [(4.0, 38.0), (1.0, 40.0), (2.0, 39.0)]  # in any order
    weight = {y: math.exp(-3 * (1 - y / 50)) for y in (38.0, 39.0, 40.0)}
    one = (2 - 1) * (39 * weight[39.0] + 40 * weight[40.0]) / 2
    other = (4 - 2) * (38 * weight[38.0] + 39 * weight[39.0]) / 2
    assert accuracy_under_parallelism(points, 50.0) == pytest.approx(1 * 40 + one + other)


def test_without_a_loss_of_accuracy_aup_is_accuracy_times_parallelism() -> None:
    assert accuracy_under_parallelism([(1.0, 40.0), (6.0, 40.0)], 40.0) == pytest.approx(240.0)
    assert accuracy_under_parallelism([(2.0, 40.0)], 40.0) == pytest.approx(80.0)


def test_settings_that_lose_too_much_dont_count_and_the_last_one_may_not() -> None:
    assert accuracy_under_parallelism([(1.0, 40.0), (2.0, 30.0), (3.0, 36.0)], 40.0) == pytest.approx(
        accuracy_under_parallelism([(1.0, 40.0), (3.0, 36.0)], 40.0)
    )
    assert accuracy_under_parallelism([(1.0, 40.0), (3.0, 34.0)], 40.0) is None
    assert accuracy_under_parallelism([], 40.0) is None
    assert accuracy_under_parallelism([(1.0, 0.0)], 0.0) is None


@golden("multi-block")
def test_the_area_is_what_d3llm_computes(vectors: Vectors) -> None:
    expected = vectors.expected["aup"]
    assert expected["curves"]
    for curve in expected["curves"]:
        points = list(zip(curve["rho"], curve["y"], strict=True))
        ours = accuracy_under_parallelism(points, curve["y_max"], curve["alpha"], curve["y_min_offset"])
        assert ours == (None if curve["aup"] is None else pytest.approx(curve["aup"], abs=1e-5)), curve[
            "name"
        ]
    for case in expected["weights"]:
        weight = accuracy_weight(case["y"], case["y_max"], case["alpha"])
        assert weight == pytest.approx(case["weight"], abs=1e-7)


def answered(run: FakeRun, name: str, accuracy: float, passes: float, **settings: Any) -> None:
    """A variant of one checkpoint; `passes` of 160 tokens."""
    sampler = {"name": settings.pop("sampler", "p2"), "options": settings.pop("options", {})}
    run.variant(name, trained_in="p2-steps-8", training_digest="same")
    run.result(
        name,
        "code",
        {"pass@1": (accuracy, 0.1, 0.5), "pass@10": (0.9, 0.8, 1.0), "loss": (1.0, 1.0, 1.0)},
        headline=["pass@1", "pass@10", "loss"],
        lower_is_better=["loss"],
        settings={"sampler": sampler, "decoder": settings},
        speed={"tokens": 160, "texts": 10, "forward_passes": passes, "seconds": 1.0},
    )


def names(run: FakeRun) -> list[tuple[str, list[str]]]:
    found = families(read_study([run.folder]), "code")
    return [(family.name, [variant.label for variant in family.variants]) for family in found]


def test_settings_of_one_checkpoint_and_sampler_are_a_family(empty_run: FakeRun) -> None:
    """And its AUP is of the accuracy, not of whatever lies between 0 and 1."""
    for steps, sampler, accuracy in ((8, "p2", 0.36), (16, "p2", 0.4), (8, "entropy", 0.2)):
        answered(empty_run, f"{sampler}-steps-{steps}", accuracy, 10 * steps, sampler=sampler, steps=steps)
    answered(empty_run, "other-steps-8", 0.4, 90, steps=8)
    empty_run.variant("other-steps-8", training_digest="another")
    assert names(empty_run) == [("p2-steps (steps varied)", ["p2-steps-16", "p2-steps-8"])]
    [(family, benchmark, metric, settings, aup)] = parallelism_table(read_study([empty_run.folder])).rows
    said = [each.value for each in (family, benchmark, metric, settings)]
    assert said == ["p2-steps (steps varied)", "code", "pass@1", "2"]
    expected = accuracy_under_parallelism([(1.0, 40.0), (2.0, 36.0)], 40.0)
    assert aup.order == pytest.approx(expected)
    study = read_study([empty_run.folder])
    content = json.loads(render_json(study, []))
    [found] = content["aup"]
    assert found.pop("aup") == pytest.approx(expected)
    assert found == {
        "family": "p2-steps (steps varied)",
        "benchmark": "code",
        "metric": "pass@1",
        "variants": ["p2-steps-16", "p2-steps-8"],
    }
    speeds = [
        content["variants"][name]["benchmarks"]["code"]["speed"]["tokens_per_forward_pass"]
        for name in ("p2-steps-8", "p2-steps-16")
    ]
    assert speeds == [2, 1]


@pytest.mark.parametrize(
    ("accuracies", "why"), [((0.0, 0.0), "nothing right"), ((0.5, 0.4), "loses over 5 points")]
)
def test_why_there_is_no_aup(empty_run: FakeRun, accuracies: tuple[float, float], why: str) -> None:
    for steps, accuracy in zip((16, 8), accuracies, strict=True):
        answered(empty_run, f"p2-steps-{steps}", accuracy, 10 * steps, steps=steps)
    [(*_, aup)] = parallelism_table(read_study([empty_run.folder])).rows
    assert (aup.order, aup.detail) == (None, why)


@pytest.mark.parametrize(
    ("headline", "expected"),
    [
        (["pass@1", "pass@10"], "pass@1"),
        (["pass@1_oracle"], "pass@1_oracle"),
        (["pass@10", "pass@1"], None),
        (["loss", "pass@1"], None),
        (["points", "pass@1"], None),
    ],
)
def test_aup_is_of_the_first_headline_metric_if_that_is_an_accuracy(
    empty_run: FakeRun, headline: list[str], expected: str | None
) -> None:
    metrics = {
        "pass@1": (0.4, 0.1, 0.5),
        "pass@1_oracle": (0.5, 0.1, 0.6),
        "pass@10": (0.9, 0.8, 1.0),
        "loss": (0.5, 0.5, 0.5),
        "points": (70.0, 60.0, 80.0),
    }
    empty_run.result("v", "code", metrics, headline=headline, lower_is_better=["loss"])
    assert accuracy_metric(read_study([empty_run.folder]), "code") == expected


def test_what_differs_in_more_than_one_setting_is_on_no_curve(empty_run: FakeRun) -> None:
    for number, settings in enumerate(
        (
            {"steps": 8, "temperature": 0.0, "cache": "none"},
            {"steps": 16, "temperature": 0.7, "cache": "none"},
            {"steps": 32, "temperature": 0.0, "cache": "dual"},
        )
    ):
        answered(empty_run, f"v{number}", 0.4, 10 * number + 10, **settings)
    assert names(empty_run) == []
    assert not parallelism_table(read_study([empty_run.folder])).rows


def test_only_a_setting_that_trades_quality_for_speed_makes_a_curve(empty_run: FakeRun) -> None:
    for number, (temperature, cache) in enumerate(((0.0, "none"), (0.5, "none"), (0.0, "dual"))):
        answered(empty_run, f"v{number}", 0.4, 10 * number + 10, temperature=temperature, cache=cache)
    assert names(empty_run) == []


def test_a_grid_of_two_settings_has_a_curve_along_each(empty_run: FakeRun) -> None:
    for steps in (8, 16):
        for threshold in (0.5, 0.9):
            name = f"a-steps-{steps}-threshold-{threshold}"
            options = {"threshold": threshold}
            answered(empty_run, name, 0.4, steps * (2 - threshold), steps=steps, options=options)
    assert sorted(name for name, _ in names(empty_run)) == [
        "a-steps (steps varied, threshold 0.5)",
        "a-steps (steps varied, threshold 0.9)",
        "a-steps-16-threshold (threshold varied, steps 16)",
        "a-steps-8-threshold (threshold varied, steps 8)",
    ]


def test_the_frontier_is_what_nothing_beats_in_both() -> None:
    points = [(1.0, 5.0), (2.0, 4.0), (2.0, 6.0), (3.0, 7.0), (4.0, 7.0)]
    assert frontier(points, less_x=True, less_y=False) == [(1.0, 5.0), (2.0, 6.0), (3.0, 7.0)]
    assert frontier(points, less_x=False, less_y=False) == [(4.0, 7.0)]
    assert frontier(points, less_x=True, less_y=True) == [(1.0, 5.0), (2.0, 4.0)]
