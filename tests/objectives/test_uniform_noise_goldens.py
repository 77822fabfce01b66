"""Noise, corruption, losses and bounds against what Duo's, UDLM's, GIDD's and MDLM's own code computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from opendllm.core.toolkit.corrupting import replacements
from opendllm.core.toolkit.noise_bound import NoiseAt, NoisyTokens, bound, rate
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.noise_schedules import NoiseMass, NoiseSchedule
from opendllm.registries.objectives import Masking, Objective, ScoredPositions
from opendllm.registries.sequences import TokenIds, TokenRows

from ..golden_vectors import Vectors, golden

PLUGINS = installed_plugins()
SETS = ("vocab_12", "vocab_160")
COSINE_CLOCK = 1 - 1e-3
"""Duo's cosine schedule reads its time times this, and leaves the factor out of its derivative."""

each_vocabulary = pytest.mark.parametrize("name", SETS)


def schedule(name: str, **options: Any) -> NoiseSchedule:
    return PLUGINS.noise_schedules.get(name).build(options)


def objective(name: str, **options: Any) -> Objective:
    return PLUGINS.objectives.get(name).build(options)


def double(numbers: Any) -> Tensor:
    return torch.as_tensor(numbers, dtype=torch.float64)


def assert_near(found: Tensor, expected: Any, rtol: float = 1e-6, atol: float = 1e-9) -> None:
    torch.testing.assert_close(found, double(expected).view_as(found), rtol=rtol, atol=atol)


class Batch:
    """One vocabulary's times, clean tokens and logits, flattened to [n] positions."""

    def __init__(self, vectors: Vectors, name: str) -> None:
        self.content = vectors.expected[name]
        self.ids = TokenIds(self.content["vocab_size"], self.content["mask_token_id"])
        self.t = double(self.content["t"])
        self.clean = torch.tensor(self.content["clean"])
        self.times = self.t[:, None].expand_as(self.clean)
        self.logits = double(self.content["logits"]).flatten(0, 1)

    def noisy(self, of: Any) -> NoisyTokens:
        return NoisyTokens(self.clean.flatten(), torch.tensor(of).flatten(), self.ids.mask_token_id)

    def at(self, noise: NoiseSchedule, clock: float = 1.0) -> NoiseAt:
        return NoiseAt.of(noise, clock * self.times.flatten(), self.ids.size)

    def losses(self, of: Objective, noise: NoiseSchedule, noisy: Any, clock: float = 1.0) -> Tensor:
        """[n]: the objective's, where `clock` t is the time of the noise."""
        masking = Masking(
            torch.ones_like(self.clean, dtype=torch.bool),
            noise.mask_probability(clock * self.times),
            clock * self.times,
            self.rows,
            torch.tensor(noisy),
        )
        positions = of.corrupt(masking, noise, self.ids.mask_token_id).positions()
        return of.position_losses(self.logits, positions, noise)

    @property
    def rows(self) -> TokenRows:
        zeros = torch.zeros_like(self.clean)
        every = torch.ones_like(self.clean, dtype=torch.bool)
        return TokenRows(self.clean, zeros, zeros, every, torch.arange(len(self.clean)), ids=self.ids)


def held_to(mass: NoiseMass, alpha: Tensor, expected: dict[str, Any], atol: float) -> None:
    """q at the clean token, the mask and another one."""
    assert_near(alpha + mass.other, expected["at_clean"], atol=atol)
    assert_near(mass.mask, expected["at_mask"], atol=atol)
    assert_near(mass.other, expected["at_another"], atol=atol)


@golden("uniform-noise")
@each_vocabulary
@pytest.mark.parametrize(
    ("published", "ours", "clock"), [("log-linear", "loglinear", 1.0), ("cosine", "cosine", COSINE_CLOCK)]
)
def test_noise_of_masks_and_uniform(
    vectors: Vectors, name: str, published: str, ours: str, clock: float
) -> None:
    batch = Batch(vectors, name)
    expected = batch.content["noise"][published]
    for destination, key in (("uniform", "uniform_q"), ("mask", "mask_q")):
        noise = schedule(ours, destination=destination)
        t = clock * batch.t
        assert_near(noise.alpha(t), expected["alpha_t"], 1e-6)
        assert_near(noise.alpha_prime(t), expected["alpha_t_prime"], 1e-6)
        assert_near(-noise.alpha(t).log(), expected["sigma"], 1e-6)
        # The published cosine weight has the derivative without the clock's factor, as alpha_t_prime has.
        assert_near(noise.elbo_weight(t), expected["mdlm_weight"], 1e-6)
        held_to(noise.noise_mass(t, batch.ids.size), noise.alpha(t), expected[key], 1e-9)


@golden("uniform-noise")
@each_vocabulary
def test_noise_of_udlm(vectors: Vectors, name: str) -> None:
    batch = Batch(vectors, name)
    expected = batch.content["noise"]["udlm_loglinear"]
    linear = schedule("linear", destination="uniform")
    assert_near(linear.mask_probability((1 - expected["eps"]) * batch.t), expected["move_chance"])
    assert_near(-linear.alpha((1 - expected["eps"]) * batch.t).log(), expected["sigma"])
    assert_near(linear.alpha(batch.t), expected["alpha_t_in_loss"])
    assert_near(linear.alpha_prime(batch.t)[0], expected["alpha_t_prime_in_loss"])
    assert_near(linear.elbo_weight(batch.t), expected["mask_weight"])


@golden("uniform-noise")
@each_vocabulary
def test_noise_of_gidd(vectors: Vectors, name: str) -> None:
    batch = Batch(vectors, name)
    for expected in batch.content["noise"]["gidd"]:
        if expected["p_uniform"] == 1:
            continue  # refused: see test_uniform_noise
        noise = schedule("gidd", p_uniform=expected["p_uniform"])
        mass = noise.noise_mass(batch.t, batch.ids.size)
        assert_near(noise.alpha(batch.t), expected["alpha_t"])
        assert_near(mass.mask, expected["beta_pi_mask"])
        assert_near(mass.other, expected["beta_pi_other"], 1e-5, 1e-16)
        assert_near(noise.alpha_prime(batch.t) / noise.alpha(batch.t), expected["alpha_prime_over_alpha"])
        held_to(mass, noise.alpha(batch.t), expected["hybrid_q"], 1e-9)


@golden("uniform-noise")
@each_vocabulary
def test_noise_of_gidd_by_log_snr(vectors: Vectors, name: str) -> None:
    """Published in float32, whose sums are off by 1e-7 where next to nothing is noise."""
    batch = Batch(vectors, name)
    for expected in batch.content["noise"]["gidd_log_snr"]:
        noise = schedule("gidd-log-snr", shift=expected["shift"])
        mass = noise.noise_mass(batch.t, batch.ids.size)
        alpha = noise.alpha(batch.t)
        assert_near(alpha, expected["alpha"], 1e-6)
        assert_near((alpha / (1 - alpha)).log(), expected["log_snr"], 1e-5, 1e-6)
        assert_near(alpha * (1 - alpha), expected["p_log_snr"], 1e-4, 2e-7)
        assert_near(mass.mask / (1 - alpha), expected["pi_mask"], 1e-5, 1e-6)
        held_to(mass, alpha, expected["hybrid_q"], 5e-7)


@golden("uniform-noise")
@each_vocabulary
def test_corruption(vectors: Vectors, name: str) -> None:
    """Duo's and UDLM's draws: a uniform number below 1 - alpha gives way to the drawn token."""
    batch = Batch(vectors, name)
    expected = batch.content["corruption"]
    draws, tokens = double(expected["uniform_draws"]), torch.tensor(expected["uniform_tokens"])
    mask = torch.full_like(tokens, batch.ids.mask_token_id)
    for key, noise, clock, instead in (
        ("duo_uniform", schedule("loglinear", destination="uniform"), 1.0, tokens),
        ("duo_mask", schedule("loglinear"), 1.0, mask),
        ("udlm_uniform", schedule("linear", destination="uniform"), 1 - 1e-3, tokens),
    ):
        gone = draws < noise.mask_probability(clock * batch.times)
        assert torch.where(gone, instead, batch.clean).tolist() == expected[key]


@golden("uniform-noise")
@each_vocabulary
def test_corruption_of_gidd(vectors: Vectors, name: str) -> None:
    """One uniform number against the cumulative sum of q, whose table is ours."""
    batch = Batch(vectors, name)
    expected = batch.content["corruption"]
    draws, size = double(expected["uniform_draws"]), batch.ids.size
    for entry in expected["gidd"]:
        noise = schedule("gidd", p_uniform=entry["p_uniform"])
        mass = noise.noise_mass(batch.times, size)
        table = mass.other[..., None].expand(*batch.clean.shape, size).clone()
        table[..., batch.ids.mask_token_id] = mass.mask
        table.scatter_add_(2, batch.clean[..., None], noise.alpha(batch.times)[..., None])
        found = torch.searchsorted(table.cumsum(-1), draws[..., None], right=True).squeeze(-1)
        assert found.clamp(max=size - 1).tolist() == entry["z_t"]


@golden("uniform-noise")
@each_vocabulary
def test_our_own_draws_follow_the_same_law(vectors: Vectors, name: str) -> None:
    """Evenly spread numbers give each token its share of b, to the last of 10,000."""
    batch = Batch(vectors, name)
    draws = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    for noise in (
        schedule("linear", destination="uniform"),
        schedule("linear"),
        schedule("gidd", p_uniform=0.5),
    ):
        mass = noise.noise_mass(torch.full_like(draws, 0.4), batch.ids.size)
        shares = torch.bincount(replacements(mass, draws, batch.ids), minlength=batch.ids.size) / 10_000
        table = mass.other[:1].expand(batch.ids.size).clone()
        table[batch.ids.mask_token_id] = mass.mask[0]
        assert float((shares - table / table.sum()).abs().max()) <= 1.5e-4


@golden("uniform-noise")
@each_vocabulary
@pytest.mark.parametrize(
    ("published", "ours", "clock"), [("log-linear", "loglinear", 1.0), ("cosine", "cosine", COSINE_CLOCK)]
)
def test_duo(vectors: Vectors, name: str, published: str, ours: str, clock: float) -> None:
    batch = Batch(vectors, name)
    noise = schedule(ours, destination="uniform")
    found = batch.losses(objective("duo"), noise, batch.content["z_uniform"], clock)
    assert_near(found, batch.content["loss"][f"duo_{published}_float64"], 1e-6, 1e-8)


@golden("uniform-noise")
@each_vocabulary
def test_float32_logits_keep_five_digits(vectors: Vectors, name: str) -> None:
    """Where the published float32 loses all but one near t = 1."""
    batch = Batch(vectors, name)
    noise = schedule("loglinear", destination="uniform")
    batch.logits = batch.logits.float()
    found = batch.losses(objective("duo"), noise, batch.content["z_uniform"])
    assert_near(found, batch.content["loss"]["duo_log-linear_float64"], 2e-5)


@golden("uniform-noise")
@each_vocabulary
@pytest.mark.parametrize(
    ("published", "ours", "clock"), [("log-linear", "loglinear", 1.0), ("cosine", "cosine", COSINE_CLOCK)]
)
def test_mdlm(vectors: Vectors, name: str, published: str, ours: str, clock: float) -> None:
    """The fast path of the one bound, and the objective's weight with the cross-entropy without masks."""
    batch = Batch(vectors, name)
    expected = batch.content["loss"][f"mdlm_{published}_float64"]
    noise, tokens = schedule(ours), batch.noisy(batch.content["z_mask"])
    assert_near(bound(batch.logits, tokens, batch.at(noise, clock)), expected)
    masking = Masking(
        tokens.masked.view_as(batch.clean),
        noise.mask_probability(clock * batch.times),
        clock * batch.times,
        batch.rows,
    )
    mdlm = objective("mdlm")
    corruption = mdlm.corrupt(masking, noise, batch.ids.mask_token_id)
    logits = batch.logits.clone()
    logits[:, batch.ids.mask_token_id] = -torch.inf
    nll = cross_entropy(logits, tokens.clean, reduction="none")[tokens.masked]
    assert_near(corruption.weight * nll, double(expected).flatten()[tokens.masked])
    assert_near(mdlm.loss_sum(nll, corruption), double(expected).sum())


@golden("uniform-noise")
@each_vocabulary
def test_udlm(vectors: Vectors, name: str) -> None:
    """Both of its parts, the noisy row and the clean one at time 0."""
    batch = Batch(vectors, name)
    expected = batch.content["loss"]["udlm_float64"]
    noise, clock, noisy = schedule("linear", destination="uniform"), 1 - 1e-3, batch.content["z_uniform"]
    without = batch.losses(objective("udlm", zero_recon_loss=True), noise, noisy, clock)
    assert_near(without, expected["diffusion_loss"])
    assert_near(without, batch.content["loss"]["duo_at_udlm_alpha_float64"])
    both = double(batch.content["logits"]), double(batch.content["logits_at_zero"])
    batch.logits = torch.stack(both, dim=1).flatten(0, 2)  # a noisy row, then its clean one
    found = batch.losses(objective("udlm"), noise, noisy, clock).view(len(batch.clean), 2, -1)
    assert_near(found[:, 0], expected["diffusion_loss"])
    assert_near(found[:, 1], expected["recon_loss"])
    assert_near(found.sum(1), expected["loss"])


@golden("uniform-noise")
@each_vocabulary
def test_udlm_tells_its_model_the_time_of_the_corruption(vectors: Vectors, name: str) -> None:
    batch = Batch(vectors, name)
    noise, clock = schedule("linear", destination="uniform"), 1 - 1e-3
    time = clock * batch.times
    masking = Masking(
        torch.ones_like(batch.clean).bool(), noise.mask_probability(time), time, batch.rows, batch.clean
    )
    inputs = objective("udlm", time_conditioning=True).corrupt(masking, noise, 0).inputs
    assert inputs.time is not None
    noisy, clean = inputs.time[:, 0].view(-1, 2).T
    expected = batch.content["loss"]["udlm_float32"]["network_time_input"]
    assert_near(torch.stack([noisy, clean]), expected, 1e-6, 1e-7)


@golden("uniform-noise")
@each_vocabulary
def test_gidd(vectors: Vectors, name: str) -> None:
    """The bound and its weight; the losses under clipped and dynamic weights, and their mean over tokens."""
    batch = Batch(vectors, name)
    noisy = batch.content["z_hybrid"]
    for expected in batch.content["loss"]["gidd"]:
        noise = schedule("gidd", p_uniform=expected["p_uniform"])
        assert_near(rate(batch.noisy(noisy), batch.at(noise)), expected["elbo_weight_float64"], 1e-5, 1e-14)
        elbo = batch.losses(objective("gidd", weighting="elbo"), noise, noisy)
        assert_near(elbo, expected["elbo_float64"], 1e-5, 1e-14)
        for weighting in ("clip", "dynamic"):
            found = batch.losses(objective("gidd", weighting=weighting), noise, noisy).view_as(batch.clean)
            assert_near(found, expected[weighting]["loss"], 1e-3, 1e-12)
            assert_near(found.mean(), expected[weighting]["tokenmean"], 1e-4)


@golden("uniform-noise")
@each_vocabulary
def test_gidd_by_log_snr(vectors: Vectors, name: str) -> None:
    """Published in float32; its bound in closed form in float64."""
    batch = Batch(vectors, name)
    for expected in batch.content["loss"]["gidd_log_snr"]:
        noise = schedule("gidd-log-snr", shift=expected["shift"])
        found = batch.losses(objective("gidd", weighting="log-snr"), noise, expected["z_t"])
        assert_near(found, expected["loss"], 2e-3, 1e-6)
        elbo = batch.losses(objective("gidd", weighting="elbo"), noise, expected["z_t"])
        assert_near(elbo, expected["elbo_closed_form_float64"], 1e-5, 1e-9)


def toy_noise(family: dict[str, Any]) -> NoiseSchedule:
    if family["noise"] == "gidd":
        return schedule("gidd", p_uniform=family["p_uniform"])
    if family["noise"] == "gidd_log_snr":
        return schedule("gidd-log-snr", shift=family["shift"])
    options = {"destination": family["noise"]}
    if family["eps"] == 0:
        return schedule("linear", **options)
    return schedule("loglinear", eps=family["eps"], **options)


def toy_logits(toy: dict[str, Any], denoiser: str) -> Callable[[Tensor, Tensor], Tensor]:
    base, by_token, by_time = (double(toy[key]) for key in ("base", "by_token", "by_time"))
    if denoiser == "fixed":
        return lambda noisy, t: base.expand(len(noisy), -1)
    return lambda noisy, t: base + by_token[noisy] + t[:, None] * by_time


def toy_integrand(
    toy: dict[str, Any], noise: NoiseSchedule, denoiser: str, clean: int
) -> Callable[[Tensor], Tensor]:
    """From times [T] to the bound's integrand there, its mean over every noisy token."""
    size, mask, logits = toy["vocab_size"], toy["mask_token_id"], toy_logits(toy, denoiser)

    def at(t: Tensor) -> Tensor:
        times, noisy = t.repeat_interleave(size), torch.arange(size).repeat(len(t))
        tokens = NoisyTokens(torch.full_like(noisy, clean), noisy, mask)
        mass = noise.noise_mass(times, size)
        chance = torch.where(tokens.masked, mass.mask, mass.other) + noise.alpha(times) * tokens.survived
        values = bound(logits(noisy, times), tokens, NoiseAt.of(noise, times, size))
        return (chance * torch.where(chance > 0, values, 0.0)).view(-1, size).sum(-1)

    return at


def integral(of: Callable[[Tensor], Tensor]) -> float:
    """Over [0, 1], by Gauss and Legendre's rule where GIDD's tails are flat, with more nodes towards them."""
    nodes, weights = (torch.from_numpy(each) for each in numpy.polynomial.legendre.leggauss(400))
    u = (nodes + 1) / 2
    v, slope = u * u * (3 - 2 * u), 6 * u * (1 - u)
    t = torch.sin(torch.pi / 2 * v).square().clamp(max=1 - 1e-15)
    return float((weights / 2 * slope * of(t) * torch.pi * (t * (1 - t)).sqrt()).sum())


@golden("uniform-noise")
def test_the_bounds_integral(vectors: Vectors) -> None:
    """As published code's own integrals are; and never below the exact likelihood, but where alpha(1) > 0."""
    toy = vectors.expected["toy_bound"]
    for family in toy["families"]:
        noise = toy_noise(family)
        for entry in family["denoisers"]:
            for clean, exact in enumerate(entry["exact_nll"]):
                found = integral(toy_integrand(toy, noise, entry["denoiser"], clean))
                assert found == pytest.approx(entry["closed_form_integral"][clean], abs=2e-7)
                for key in ("duo_integral_0_1", "mdlm_integral_0_1", "gidd_integral_0_1"):
                    if key in entry:
                        assert found == pytest.approx(entry[key][clean], abs=2e-7)
                if noise.ends[1] == 0:
                    assert found > exact - 2e-7
                    if entry["denoiser"] == "fixed":
                        assert found == pytest.approx(exact, abs=2e-7)


@golden("uniform-noise")
def test_gidds_published_estimate_lies_below_the_likelihood(vectors: Vectors) -> None:
    """Its mean over [1e-4, 1 - 1e-4] is ours there, and a tail of t^(-1/2) is what it lacks."""
    toy = vectors.expected["toy_bound"]
    for family in toy["families"]:
        if family["noise"] != "gidd" or family["p_uniform"] == 0:
            continue
        noise = toy_noise(family)
        low, high = noise.interval
        entry = next(entry for entry in family["denoisers"] if entry["denoiser"] == "fixed")
        for clean, exact in enumerate(entry["exact_nll"]):
            of = toy_integrand(toy, noise, "fixed", clean)
            published = entry["gidd_mean_over_t_in_1e-4_1-1e-4"][clean]
            t = low + (high - low) * arcsine_grid()
            assert float(torch.trapezoid(of(t), t)) / (high - low) == pytest.approx(published, rel=1e-5)
            assert published < exact - 1e-3


def arcsine_grid() -> Tensor:
    """[20,001] numbers from 0 to 1, dense at both ends."""
    return torch.sin(torch.pi / 2 * torch.linspace(0, 1, 20_001, dtype=torch.float64)).square()


def test_positions_are_weighed_one_by_one() -> None:
    """A part of the positions has the losses that it has among all."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 8, generator=generator, dtype=torch.float64)
    tokens = torch.randint(0, 7, (2, 6), generator=generator)
    times = torch.rand(6, generator=generator, dtype=torch.float64)
    positions = ScoredPositions(tokens[0], tokens[1], times, torch.ones(6), TokenIds(8, 7))
    noise = schedule("gidd")
    for name, chosen in (("gidd", noise), ("duo", schedule("linear", destination="uniform"))):
        whole = objective(name).position_losses(logits, positions, chosen)
        for part in (slice(0, 2), slice(2, 6)):
            found = objective(name).position_losses(logits[part], positions.part(part), chosen)
            torch.testing.assert_close(found, whole[part])
