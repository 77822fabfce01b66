"""The contract of noise schedules, as tests."""

from __future__ import annotations

import torch

from opendllm.core.testing.contract import PluginContract, check_close, passed_over
from opendllm.registries.noise_schedules import NoiseSchedule
from opendllm.registries.options import noise_destination

VOCABULARY = 12
COVERED = 0.95
"""The least share of what alpha falls by that has to lie in `interval`."""
MEASURABLE = 1e-8
"""The least 1 - alpha, and slope, that is well above the rounding of 1 - alpha, 1e-16."""
NEAR_THE_ENDS = (1e-4, 1e-3)
"""Where in the interval a weight has to be finite too: objectives keep no further away."""


class NoiseScheduleContract(PluginContract):
    """alpha falls from one declared end to the other, and everything else follows from it."""

    kind = "noise_schedules"

    def schedule(self) -> NoiseSchedule:
        """The plugin."""
        return self.built(NoiseSchedule)  # type: ignore[type-abstract]

    def times(self) -> torch.Tensor:
        """[201] float64 over the schedule's interval, its ends left out."""
        low, high = self.schedule().interval
        return torch.linspace(low, high, 203, dtype=torch.float64)[1:-1]

    def test_alpha_falls_and_stays_a_probability(self) -> None:
        """0 <= alpha <= 1, never rising."""
        times = self.times()
        alpha = self.schedule().alpha(times)
        outside = times[~((alpha >= 0) & (alpha <= 1))].tolist()
        assert not outside, (
            f"alpha was expected in [0, 1], and is {alpha[~((alpha >= 0) & (alpha <= 1))][0]} at t = "
            f"{outside[0]:.3f}: it is the chance that a token survives"
        )
        rises = times[1:][alpha.diff() > 0].tolist()
        assert not rises, (
            f"alpha was expected to fall, and it rises before t = {rises[0]:.3f}: noise never goes back; "
            f"give 1 - alpha if you meant the chance of noise"
        )

    def test_the_interval_covers_the_noise(self) -> None:
        """What alpha falls by between 0 and 1 lies in it: all that is tested here, and trained, does."""
        schedule, (low, high) = self.schedule(), self.schedule().interval
        assert 0 <= low < high <= 1, (
            f"interval is ({low}, {high}), and two times in order within [0, 1] were expected: mend it"
        )
        alpha = schedule.alpha(torch.tensor([0.0, low, high, 1.0], dtype=torch.float64)).tolist()
        whole, inside = alpha[0] - alpha[3], alpha[1] - alpha[2]
        assert inside >= COVERED * whole, (
            f"interval ({low:g}, {high:g}) covers {inside:.3f} of the {whole:.3f} that alpha falls by, and "
            f"{COVERED:.0%} was expected: widen it, or hold alpha still outside of it where that noise is "
            f"left out by intent"
        )

    def test_the_declared_ends_are_true(self) -> None:
        """`ends` is what alpha gives at 0 and 1."""
        schedule = self.schedule()
        found = schedule.alpha(torch.tensor([0.0, 1.0], dtype=torch.float64)).tolist()
        wrong = [
            f"ends says alpha({time}) is {said:g}, and alpha gives {came:g}: say in `ends` what it gives"
            for time, said, came in zip((0, 1), schedule.ends, found, strict=True)
            if not abs(said - came) <= 1e-6
        ]
        assert not wrong, "; ".join(wrong)

    def test_alpha_prime_is_the_derivative(self) -> None:
        """Against autograd."""
        times = self.times().requires_grad_()
        schedule = self.schedule()
        (gradient,) = torch.autograd.grad(schedule.alpha(times).sum(), times)
        check_close(
            schedule.alpha_prime(times),
            gradient,
            "alpha_prime",
            "it is the derivative of alpha in t, by autograd here",
        )

    def test_alpha_prime_is_never_positive(self) -> None:
        """No more survives later on."""
        times = self.times()
        slope = self.schedule().alpha_prime(times)
        rising = times[slope > 0].tolist()
        assert not rising, (
            f"alpha_prime is {float(slope.max()):g} at t = {rising[0]:.3f}, and never above 0 was expected: "
            f"it is the derivative of alpha, with its sign"
        )

    def test_the_weight_is_finite(self) -> None:
        """At every time that training draws: one infinite weight is the end of a run."""
        low, high = self.schedule().interval
        near = torch.tensor(NEAR_THE_ENDS, dtype=torch.float64)
        times = torch.cat([low + (high - low) * near, self.times(), high - (high - low) * near])
        times = times[self.schedule().mask_probability(times) > 0]  # nothing is masked at others, nor weighed
        weight = self.schedule().elbo_weight(times)
        wrong = ~(torch.isfinite(weight) & (weight >= 0))
        assert not bool(wrong.any()), (
            f"a finite elbo_weight that isn't negative was expected, and it is {weight[wrong][0]} at t = "
            f"{times[wrong][0]:.3f}: mend the formula -alpha' / (1 - alpha), or begin `interval` later"
        )

    def test_the_weight_belongs_to_alpha(self) -> None:
        """elbo_weight is -alpha' / (1 - alpha), the loss's weight where tokens are masked as alpha says."""
        schedule, times = self.schedule(), self.times()
        times = times[1 - schedule.alpha(times) > MEASURABLE]
        check_close(
            schedule.elbo_weight(times),
            -schedule.alpha_prime(times) / schedule.mask_probability(times),
            "elbo_weight, against -alpha' / (1 - alpha)",
            "elbo_weight is -alpha' / (1 - alpha), which is there without being defined; an objective's own "
            "weighting belongs into the objective",
            rtol=1e-5,
        )

    def test_what_does_not_survive_is_masked(self) -> None:
        """Or replaced, where noise isn't masks: mask_probability is 1 - alpha, at every time from 0 to 1."""
        schedule = self.schedule()
        times = torch.linspace(0, 1, 101, dtype=torch.float64)
        check_close(
            schedule.mask_probability(times),
            1 - schedule.alpha(times),
            "mask_probability, against 1 - alpha",
            "mask_probability is 1 - alpha, which is there without being defined",
        )

    def test_a_mask_probability_leads_back_to_its_time(self) -> None:
        """`time_of` inverts `mask_probability`; where that stands still, any time of the same one will do."""
        schedule, times = self.schedule(), self.times()
        mend = (
            "it is inherited, a bisection: mend mask_probability, which has to rise over `interval`"
            if type(schedule).time_of is NoiseSchedule.time_of
            else "time_of is the inverse of mask_probability; leave it out to have it found by bisection"
        )
        probability = schedule.mask_probability(times)
        found = schedule.time_of(probability)
        changing = -schedule.alpha_prime(times) > MEASURABLE
        check_close(found[changing], times[changing], "time_of(mask_probability(t))", mend, rtol=0, atol=1e-6)
        check_close(
            schedule.mask_probability(found),
            probability,
            "mask_probability(time_of(p)), which is p",
            mend,
            rtol=0,
            atol=1e-6,
        )

    def test_noise_takes_what_does_not_survive(self) -> None:
        """b sums to 1 - alpha over a vocabulary of any size, and is nowhere negative."""
        schedule, times = self.schedule(), self.times()
        for size in (VOCABULARY, 5):
            mass = schedule.noise_mass(times, size)
            check_close(
                mass.mask + (size - 1) * mass.other,
                1 - schedule.alpha(times),
                f"the sum of noise_mass over a vocabulary of {size}, which is 1 - alpha",
                "`mask` is the mask token's mass, `other` that of each of the vocab_size - 1 other tokens",
            )
            least = float(torch.minimum(mass.mask, mass.other).min())
            assert least >= 0, f"a noise mass is {least:g}, and none may be below 0: mend noise_mass"

    def test_noise_goes_where_the_destination_says(self) -> None:
        """`mask`: to the mask token only; `uniform`: to any token alike."""
        schedule = self.schedule()
        if schedule.destination == "mixture":
            passed_over("its destination is mixture, of any shares")
        mass = schedule.noise_mass(self.times(), VOCABULARY)
        wanted = mass.mask * 0 if schedule.destination == "mask" else mass.mask
        check_close(
            mass.other,
            wanted,
            f"noise_mass's `other` of {schedule.destination} noise",
            "leave noise_mass to the destination, or call it a mixture",
        )

    def test_noise_never_takes_tokens_back(self) -> None:
        """b(z) - alpha'/alpha b(z) is never negative: noise only ever comes on top."""
        schedule, times = self.schedule(), self.times()
        alpha, mass = schedule.alpha(times), schedule.noise_mass(times, VOCABULARY)
        slope, rate = schedule.noise_mass_prime(times, VOCABULARY), schedule.alpha_prime(times) / alpha
        for name, at, prime in (("mask", mass.mask, slope.mask), ("other", mass.other, slope.other)):
            coming = (prime - rate * at)[alpha > 0]
            wrong = times[alpha > 0][coming < -1e-9].tolist()
            assert not wrong, (
                f"of noise_mass's `{name}`, b' - alpha'/alpha b is {float(coming.min()):g} at t = "
                f"{wrong[0]:.3f}, and nothing below 0 was expected: b / alpha must not fall, so let this "
                f"share shrink no faster than alpha"
            )

    def test_the_derivatives_of_noise_are_derivatives(self) -> None:
        """`noise_mass_prime`, against autograd."""
        times, schedule = self.times().requires_grad_(), self.schedule()
        mass, slope = (
            schedule.noise_mass(times, VOCABULARY),
            schedule.noise_mass_prime(times, VOCABULARY),
        )
        for name, part, found in (("mask", mass.mask, slope.mask), ("other", mass.other, slope.other)):
            (gradient,) = torch.autograd.grad(part.sum(), times, retain_graph=True)
            check_close(
                found,
                gradient,
                f"noise_mass_prime's `{name}`",
                "it is the derivative of noise_mass in t, by autograd here",
            )

    def test_the_destination_is_what_the_options_say(self) -> None:
        """A manifest is checked by the options alone."""
        said, found = noise_destination(self.plugin_options()), self.schedule().destination
        assert said == found, (
            f"the options' noise_destination is {said!r}, and the schedule's destination {found!r}: derive "
            f"the options from NoiseScheduleOptions and let both say the same"
        )

    def test_shapes_are_kept(self) -> None:
        """Any shape in, the same shape out, of the same precision."""
        schedule, times = self.schedule(), self.times().reshape(3, -1)
        for name in ("alpha", "alpha_prime", "elbo_weight", "mask_probability", "time_of"):
            for given in (times, times[0, 0]):
                found = getattr(schedule, name)(given)
                assert found.shape == given.shape, (
                    f"{name} of {list(given.shape)} is {list(found.shape)}: keep the shape of t"
                )
                assert found.dtype == given.dtype, (
                    f"{name} of float64 gave {str(found.dtype).removeprefix('torch.')}, and float64 was "
                    f"expected: half the digits are lost otherwise; keep the dtype of t"
                )

    def test_each_time_stands_by_itself(self) -> None:
        """What is given for one time doesn't hang on the others of its batch, and leaves them as they are."""
        schedule, times = self.schedule(), self.times()
        given = times.clone()
        for name in ("alpha", "alpha_prime", "elbo_weight", "mask_probability"):
            hook = getattr(schedule, name)
            check_close(
                hook(given)[20:30],
                hook(times[20:30]),
                f"{name} of ten times among others, against the ten alone",
                "work on each time by itself: no mean, least or largest of `t`",
            )
            assert torch.equal(given, times), (
                f"{name} was expected to leave `t` as it is, and wrote into it: work on a copy"
            )
