"""AUP, and which variants are settings of one another."""

from __future__ import annotations

import math

import pytest

from opendllm.core.reporting.collect import read_study
from opendllm.core.reporting.cost_tables import parallelism_table
from opendllm.core.reporting.parallelism import accuracy_under_parallelism, accuracy_weight, families
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


def test_settings_of_one_checkpoint_and_sampler_are_a_family(empty_run: FakeRun) -> None:
    for steps, sampler, accuracy in ((8, "p2", 0.36), (16, "p2", 0.4), (8, "entropy", 0.2)):
        name = f"{sampler}-steps-{steps}"
        empty_run.variant(name, trained_in="p2-steps-8")
        empty_run.result(
            name,
            "code",
            {"pass@1": (accuracy, 0.1, 0.5), "loss": (1.0, 1.0, 1.0)},
            headline=["pass@1", "loss"],
            lower_is_better=["loss"],
            settings={"sampler": {"name": sampler, "options": {}}},
            speed={"tokens": 160, "texts": 10, "forward_passes": 10 * steps, "seconds": 1.0},
        )
    empty_run.variant("other", training_digest="another")
    study = read_study([empty_run.folder])
    assert [(each.name, len(each.variants)) for each in families(study, "code")] == [("p2-steps", 2)]
    [(family, benchmark, metric, settings, aup)] = parallelism_table(study).rows
    said = [each.value for each in (family, benchmark, metric, settings)]
    assert said == ["p2-steps", "code", "pass@1", "2"]
    expected = accuracy_under_parallelism([(1.0, 40.0), (2.0, 36.0)], 40.0)
    assert aup.order == pytest.approx(expected)


def test_the_frontier_is_what_nothing_beats_in_both() -> None:
    points = [(1.0, 5.0), (2.0, 4.0), (2.0, 6.0), (3.0, 7.0), (4.0, 7.0)]
    assert frontier(points, less_x=True, less_y=False) == [(1.0, 5.0), (2.0, 6.0), (3.0, 7.0)]
    assert frontier(points, less_x=False, less_y=False) == [(4.0, 7.0)]
    assert frontier(points, less_x=True, less_y=True) == [(1.0, 5.0), (2.0, 4.0)]
