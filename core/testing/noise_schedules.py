"""The contract of noise schedules, as tests."""

from __future__ import annotations

import torch

from opendllm.core.testing.contract import PluginContract
from opendllm.registries.noise_schedules import NoiseSchedule


class NoiseScheduleContract(PluginContract):
    """alpha falls from one declared end to the other, and everything else follows from it."""

    kind = "noise_schedules"

    def schedule(self) -> NoiseSchedule:
        """The plugin."""
        schedule = self.build()
        assert isinstance(schedule, NoiseSchedule)
        return schedule

    def times(self) -> torch.Tensor:
        """[201] float64 over the schedule's interval, its ends left out."""
        low, high = self.schedule().interval
        return torch.linspace(low, high, 203, dtype=torch.float64)[1:-1]

    def test_alpha_falls_and_stays_a_probability(self) -> None:
        """0 <= alpha <= 1, never rising."""
        alpha = self.schedule().alpha(self.times())
        assert bool(((alpha >= 0) & (alpha <= 1)).all())
        assert bool((alpha.diff() <= 0).all())

    def test_the_declared_ends_are_true(self) -> None:
        """`ends` is what alpha gives at 0 and 1."""
        schedule = self.schedule()
        ends = schedule.alpha(torch.tensor([0.0, 1.0], dtype=torch.float64))
        torch.testing.assert_close(ends, torch.tensor(schedule.ends, dtype=torch.float64))

    def test_alpha_prime_is_the_derivative(self) -> None:
        """Against autograd."""
        times = self.times().requires_grad_()
        schedule = self.schedule()
        (gradient,) = torch.autograd.grad(schedule.alpha(times).sum(), times)
        torch.testing.assert_close(schedule.alpha_prime(times).detach(), gradient)

    def test_the_weight_integrates_to_what_alpha_falls_by(self) -> None:
        """The integral of w (1 - alpha) over the interval is alpha(low) - alpha(high)."""
        schedule, times = self.schedule(), self.times()
        integrand = schedule.elbo_weight(times) * schedule.mask_probability(times)
        total = torch.trapezoid(integrand, times)
        torch.testing.assert_close(
            total, schedule.alpha(times[0]) - schedule.alpha(times[-1]), rtol=1e-3, atol=1e-4
        )

    def test_a_mask_probability_leads_back_to_its_time(self) -> None:
        """`time_of` inverts `mask_probability`."""
        schedule, times = self.schedule(), self.times()
        torch.testing.assert_close(
            schedule.time_of(schedule.mask_probability(times)), times, rtol=0, atol=1e-6
        )

    def test_shapes_are_kept(self) -> None:
        """Any shape in, the same shape out."""
        schedule, times = self.schedule(), self.times().reshape(3, -1)
        for function in (schedule.alpha, schedule.alpha_prime, schedule.elbo_weight):
            assert function(times).shape == times.shape
