"""Intervals beside scores."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import bootstrap, norm

from opendllm.core.scoring import statistics
from opendllm.core.scoring.statistics import bootstrap_mean, bootstrap_statistic, normal_interval

VALUES = np.random.default_rng(3).binomial(1, 0.3, size=164).astype(float)


def test_the_bootstrap_is_the_percentile_one() -> None:
    found = bootstrap_mean(VALUES.tolist())
    expected = bootstrap((VALUES,), np.mean, method="percentile", n_resamples=4000, random_state=1)
    assert found.value == pytest.approx(VALUES.mean())
    assert found.low == pytest.approx(expected.confidence_interval.low, abs=0.01)
    assert found.high == pytest.approx(expected.confidence_interval.high, abs=0.01)


def test_it_is_the_same_whatever_fits_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = bootstrap_mean(VALUES.tolist())
    monkeypatch.setattr(statistics, "DRAWN_AT_ONCE", 500)
    assert bootstrap_mean(VALUES.tolist()) == whole


def test_nothing_has_no_mean() -> None:
    found = bootstrap_mean([])
    assert np.isnan([found.value, found.low, found.high]).all()


def test_a_normal_interval_leaves_out_one_in_forty_on_either_side() -> None:
    found = normal_interval(3.0, 0.5)
    assert found.value == 3
    assert norm.cdf(found.low, 3, 0.5) == pytest.approx(0.025, abs=1e-4)
    assert norm.cdf(found.high, 3, 0.5) == pytest.approx(0.975, abs=1e-4)


def test_any_statistic_has_an_interval_around_its_value() -> None:
    found = bootstrap_statistic(VALUES.tolist(), lambda items: float(np.mean(items)), float(VALUES.mean()))
    plain = bootstrap_mean(VALUES.tolist())
    assert found.low == pytest.approx(plain.low, abs=0.03)
    assert found.high == pytest.approx(plain.high, abs=0.03)
    assert found == bootstrap_statistic(
        VALUES.tolist(), lambda items: float(np.mean(items)), float(VALUES.mean())
    )
