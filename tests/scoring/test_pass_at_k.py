"""pass@k against its definition."""

from __future__ import annotations

from itertools import combinations

import pytest

from opendllm.core.scoring.pass_at_k import pass_at_k, pass_at_k_by_task


@pytest.mark.parametrize("samples", range(1, 8))
def test_it_is_the_share_of_subsets_in_which_something_passes(samples: int) -> None:
    for passed in range(samples + 1):
        verdicts = [True] * passed + [False] * (samples - passed)
        for k in range(1, samples + 1):
            subsets = list(combinations(verdicts, k))
            expected = sum(any(subset) for subset in subsets) / len(subsets)
            assert pass_at_k(samples, passed, k) == pytest.approx(expected, abs=1e-12)


def test_many_samples_neither_overflow_nor_cancel() -> None:
    assert pass_at_k(100_000, 1, 100) == pytest.approx(0.001)
    assert pass_at_k(100_000, 100_000, 100_000) == 1
    assert pass_at_k(200, 0, 100) == 0


@pytest.mark.parametrize(("samples", "passed", "k"), [(5, 2, 6), (5, 2, 0), (5, 6, 1), (0, 0, 1), (5, -1, 1)])
def test_what_has_no_estimate_is_an_error(samples: int, passed: int, k: int) -> None:
    with pytest.raises(ValueError, match=f"pass@{k} of {passed} out of {samples}"):
        pass_at_k(samples, passed, k)


def test_only_those_k_that_every_task_has_samples_for() -> None:
    found = pass_at_k_by_task({"a": [True, False, False], "b": [False, False]}, (1, 2, 3, 10))
    assert found == {
        "pass@1": {"a": pytest.approx(1 / 3), "b": 0},
        "pass@2": {"a": pytest.approx(2 / 3), "b": 0},
        "passed": {"a": True, "b": False},
    }
