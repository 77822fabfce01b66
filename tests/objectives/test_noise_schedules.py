"""Every registered schedule is what it says of itself."""

from __future__ import annotations

import math

import pytest
import torch

from opendllm.registries.discovery import installed_plugins
from opendllm.registries.noise_schedules import NoiseSchedule

SCHEDULES = installed_plugins().noise_schedules


@pytest.fixture(params=SCHEDULES.names())
def schedule(request: pytest.FixtureRequest) -> NoiseSchedule:
    return SCHEDULES.get(request.param).build()


def times(schedule: NoiseSchedule, count: int = 2001) -> torch.Tensor:
    """Midpoints of the schedule's interval."""
    low, high = schedule.interval
    return low + (high - low) * (torch.arange(count, dtype=torch.float64) + 0.5) / count


def test_alpha_prime_is_the_derivative(schedule: NoiseSchedule) -> None:
    t = times(schedule).requires_grad_()
    (derivative,) = torch.autograd.grad(schedule.alpha(t).sum(), t)
    torch.testing.assert_close(schedule.alpha_prime(t.detach()), derivative, atol=1e-10, rtol=1e-8)
    assert bool((derivative <= 0).all())


def test_ends_are_declared_truly(schedule: NoiseSchedule) -> None:
    ends = schedule.alpha(torch.tensor([0.0, 1.0], dtype=torch.float64)).tolist()
    assert list(schedule.ends) == pytest.approx(ends, abs=1e-12)


def test_weight_times_mask_probability_integrates_to_the_fall_of_alpha(schedule: NoiseSchedule) -> None:
    t = times(schedule, 200_000)
    low, high = schedule.interval
    integral = float((schedule.elbo_weight(t) * schedule.mask_probability(t)).mean()) * (high - low)
    alpha = schedule.alpha(torch.tensor([low, high], dtype=torch.float64))
    assert integral == pytest.approx(float(alpha[0] - alpha[1]), rel=1e-4)


def test_time_of_inverts_the_mask_probability(schedule: NoiseSchedule) -> None:
    t = times(schedule)
    torch.testing.assert_close(schedule.time_of(schedule.mask_probability(t)), t, atol=1e-9, rtol=0)
    single = schedule.time_of(schedule.mask_probability(t).float())
    assert single.dtype == torch.float64
    torch.testing.assert_close(
        schedule.mask_probability(single), schedule.mask_probability(t), atol=1e-6, rtol=0
    )


def test_weight_is_finite_and_not_negative_up_to_the_end(schedule: NoiseSchedule) -> None:
    t = torch.tensor([1e-3, 0.5, 1.0], dtype=torch.float64).clamp(*schedule.interval)
    weight = schedule.elbo_weight(t)
    assert bool(weight.isfinite().all())
    assert bool((weight >= 0).all())


def test_linear_weight_is_one_over_t() -> None:
    t = torch.tensor([1e-3, 0.25, 1.0], dtype=torch.float64)
    torch.testing.assert_close(SCHEDULES.get("linear").build().elbo_weight(t), 1 / t)


def test_cosine_weight_vanishes_at_the_end() -> None:
    cosine = SCHEDULES.get("cosine").build()
    assert float(cosine.elbo_weight(torch.tensor(1.0, dtype=torch.float64))) == 0
    half = torch.tensor(0.5, dtype=torch.float64)
    assert float(cosine.alpha(half)) == pytest.approx(1 - math.sqrt(0.5))
    assert float(cosine.elbo_weight(half)) == pytest.approx(math.pi / 2)
