"""The contract of noise schedules, as tests."""

from __future__ import annotations

import torch

from opendllm.core.testing.contract import PluginContract, example_options
from opendllm.registries.noise_schedules import NoiseSchedule
from opendllm.registries.options import noise_destination


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

    def test_noise_takes_what_does_not_survive(self) -> None:
        """b sums to 1 - alpha over the vocabulary, and is nowhere negative."""
        schedule, times, size = self.schedule(), self.times(), 12
        mass = schedule.noise_mass(times, size)
        total = mass.mask + (size - 1) * mass.other
        torch.testing.assert_close(total, 1 - schedule.alpha(times), msg="b must sum to 1 - alpha")
        assert bool(((mass.mask >= 0) & (mass.other >= 0)).all()), "a noise mass is negative"

    def test_the_derivatives_of_noise_are_derivatives(self) -> None:
        """`noise_mass_prime`, against autograd."""
        times, schedule = self.times().requires_grad_(), self.schedule()
        mass, slope = schedule.noise_mass(times, 12), schedule.noise_mass_prime(times, 12)
        for part, found in ((mass.mask, slope.mask), (mass.other, slope.other)):
            (gradient,) = torch.autograd.grad(part.sum(), times, retain_graph=True)
            torch.testing.assert_close(found.detach(), gradient)

    def test_the_destination_is_what_the_options_say(self) -> None:
        """A manifest is checked by the options alone."""
        registration = self.registration()
        options = registration.options.model_validate(example_options(registration, self.options))
        assert noise_destination(options) == self.schedule().destination

    def test_shapes_are_kept(self) -> None:
        """Any shape in, the same shape out."""
        schedule, times = self.schedule(), self.times().reshape(3, -1)
        for function in (schedule.alpha, schedule.alpha_prime, schedule.elbo_weight):
            assert function(times).shape == times.shape
