"""The Monte-Carlo bound of uniform noise and mixtures, against sums over every noisy text and exact laws."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from opendllm.core.testing.table_lm import TableLM
from opendllm.core.toolkit import noise_likelihood
from opendllm.core.toolkit.likelihood import bound_name, log_likelihood
from opendllm.core.toolkit.noise_bound import NoiseAt, NoisyTokens, bound
from opendllm.core.toolkit.segments import inputs_from_mask
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.errors import UserError
from opendllm.registries.noise_schedules import NoiseMass, NoiseSchedule
from opendllm.registries.options import Bound, NoiseScheduleOptions
from opendllm.registries.registry import ChosenPlugin, Provenance, Registration
from opendllm.registries.sequences import AttentionPattern
from opendllm.registries.trained_noise import TrainedNoise

SIZE = 4
TOKENS = torch.tensor([[0, 2, 1]])
SCORABLE = torch.tensor([[False, True, True]])
NOISES: dict[str, tuple[str, dict[str, Any]]] = {
    "uniform": ("loglinear", {"destination": "uniform"}),
    "gidd": ("gidd", {"p_uniform": 0.5}),
    "log-snr": ("gidd-log-snr", {"shift": 1.0}),
}
each_noise = pytest.mark.parametrize("noise", NOISES)


def trained(noise: str, bound: Bound = "noise", time_conditioning: bool = False) -> TrainedNoise:
    name, options = NOISES[noise]
    registration = installed_plugins().noise_schedules.get(name)
    chosen = ChosenPlugin(registration, registration.options.model_validate(options))
    return TrainedNoise(chosen, bound, time_conditioning)


def table_lm(noise: TrainedNoise) -> TableLM:
    lm = TableLM(SIZE, reads_time=noise.time_conditioning)
    lm.noise = noise
    return lm


def quadrature(of: Callable[[Tensor], Tensor]) -> float:
    """The integral over [0, 1], by Gauss and Legendre's rule where the tails are flat."""
    nodes, weights = (torch.from_numpy(each) for each in numpy.polynomial.legendre.leggauss(300))
    u = (nodes + 1) / 2
    v, slope = u * u * (3 - 2 * u), 6 * u * (1 - u)
    t = torch.sin(torch.pi / 2 * v).square().clamp(max=1 - 1e-15)
    return float((weights / 2 * slope * of(t) * torch.pi * (t * (1 - t)).sqrt()).sum())


def chances(noise: NoiseSchedule, t: Tensor, clean: Tensor, noisy: Tensor, mask: int) -> Tensor:
    """q(noisy | clean) at times t, all [n]."""
    mass = noise.noise_mass(t, SIZE)
    return noise.alpha(t) * (noisy == clean) + torch.where(noisy == mask, mass.mask, mass.other)


@torch.no_grad()
def exact_bound(lm: TableLM) -> float:
    """The integral over times of the sum over every noisy text; the schedule is the trained one itself."""
    assert lm.noise.schedule is not None
    noise = lm.noise.schedule.build()
    if lm.noise.destination == "uniform":  # from 1 to 0, where log-linear stops short
        noise = installed_plugins().noise_schedules.get("linear").build({"destination": "uniform"})
    places = SCORABLE[0].nonzero()[:, 0]
    texts = torch.tensor(list(itertools.product(range(SIZE), repeat=len(places))))

    def at(t: Tensor) -> Tensor:
        count = len(t) * len(texts)
        times, noisy = t.repeat_interleave(len(texts)), texts.repeat(len(t), 1)
        rows = TOKENS.repeat(count, 1)
        rows[:, places] = noisy
        inputs = inputs_from_mask(rows, None)
        if lm.noise.time_conditioning:
            inputs = replace(inputs, time=-noise.alpha(times).log()[:, None].expand(rows.shape))
        logits = lm.project(lm.hidden_states(inputs)).double()
        chance, total = torch.ones(count, dtype=torch.float64), torch.zeros(count, dtype=torch.float64)
        for number, place in enumerate(places.tolist()):
            clean = TOKENS[0, place].expand(count)
            tokens = NoisyTokens(clean, noisy[:, number], lm.mask_token_id)
            chance *= chances(noise, times, clean, noisy[:, number], lm.mask_token_id)
            total += bound(logits[:, place], tokens, NoiseAt.of(noise, times, SIZE))
        return (chance * torch.where(chance > 0, total, 0.0)).view(len(t), -1).sum(-1)

    return quadrature(at)


@each_noise
@pytest.mark.parametrize("time_conditioning", [False, True])
def test_converges_to_the_exact_bound(noise: str, time_conditioning: bool) -> None:
    lm = table_lm(trained(noise, time_conditioning=time_conditioning))
    found = log_likelihood(lm, inputs_from_mask(TOKENS, None), SCORABLE, 40_000, torch.tensor([3]), 4096)
    exact, error = exact_bound(lm), float(found.variance) ** 0.5
    assert error < 0.015 * exact
    assert abs(-float(found.log_likelihood) - exact) < 4 * error


@each_noise
def test_the_standard_error_is_that_of_many_runs(noise: str) -> None:
    lm, runs = table_lm(trained(noise)), 400
    inputs = inputs_from_mask(TOKENS.expand(runs, -1), None)
    found = log_likelihood(lm, inputs, SCORABLE.expand(runs, -1), 256, torch.arange(runs), 8192)
    assert float(found.variance.mean()) == pytest.approx(float(found.log_likelihood.var()), rel=0.3)


def exact_law(noise: NoiseSchedule, model: Callable[[int, float], Tensor], mask: int) -> Tensor:
    """[V]: what one token becomes that is denoised in ever smaller steps, from the noise at t = 1.

    A step from t to s draws from p(z_s | z_t) ~ q(z_t | z_s) (alpha_s x_th(z_s) + b_s(z_s)).

    Args:
        noise: the schedule.
        model: from the noisy token and the time to x_th [V].
        mask: the mask token.
    """

    def table(mass: NoiseMass) -> Tensor:
        b = mass.other.expand(SIZE).clone()
        b[mask] = mass.mask
        return b

    grid = torch.sin(torch.pi / 2 * torch.linspace(1, 0, 6001, dtype=torch.float64)).square()
    grid = grid.clamp(1e-12, 1 - 1e-12)
    law = table(noise.noise_mass(grid[0], SIZE))
    law = law / law.sum()
    for t, s in itertools.pairwise(grid):
        (alpha_t, b_t), (alpha_s, b_s) = (
            (noise.alpha(time), table(noise.noise_mass(time, SIZE))) for time in (t, s)
        )
        kept = alpha_t / alpha_s
        x_th = torch.stack([model(token, float(t)) for token in range(SIZE)])  # [z_t, V]
        moves = kept * torch.eye(SIZE, dtype=torch.float64) + (b_t - kept * b_s)[:, None]  # [z_t, z_s]
        joint = moves.clamp(min=0) * (alpha_s * x_th + b_s)
        law = law @ (joint / joint.sum(-1, keepdim=True).clamp(min=1e-300))
    return law


@each_noise
@pytest.mark.parametrize("denoiser", ["fixed", "varying"])
def test_the_bound_is_no_less_than_the_exact_negative_log_likelihood(noise: str, denoiser: str) -> None:
    """And no more, where the model is what no noise can change."""
    chosen = trained(noise)
    assert chosen.schedule is not None
    schedule = chosen.schedule.build()
    if chosen.destination == "uniform":
        schedule = installed_plugins().noise_schedules.get("linear").build({"destination": "uniform"})
    mask = SIZE - 1
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(SIZE, SIZE, generator=generator, dtype=torch.float64)
    if denoiser == "fixed":
        logits = logits[:1].expand(SIZE, SIZE)
    if chosen.destination != "uniform":
        logits = logits.index_fill(1, torch.tensor(mask), -torch.inf)
    law = exact_law(schedule, lambda token, _: logits[token].softmax(-1), mask)
    for clean in range(SIZE - 1):

        def at(t: Tensor, clean: int = clean) -> Tensor:
            times, noisy = t.repeat_interleave(SIZE), torch.arange(SIZE).repeat(len(t))
            tokens = NoisyTokens(torch.full_like(noisy, clean), noisy, mask)
            values = bound(logits[noisy], tokens, NoiseAt.of(schedule, times, SIZE))
            chance = chances(schedule, times, tokens.clean, noisy, mask)
            return (chance * torch.where(chance > 0, values, 0.0)).view(-1, SIZE).sum(-1)

        found, exact = quadrature(at), -math.log(float(law[clean]))
        assert found > exact - 1e-3
        assert (found == pytest.approx(exact, abs=2e-3)) == (denoiser == "fixed")


def test_udlms_has_the_clean_texts_cross_entropy() -> None:
    lm = table_lm(trained("uniform", time_conditioning=True))
    inputs, seeds = inputs_from_mask(TOKENS, None), torch.tensor([1])
    plain = log_likelihood(lm, inputs, SCORABLE, 16, seeds)
    lm.noise = replace(lm.noise, bound="noise-and-reconstruction")
    found = log_likelihood(lm, inputs, SCORABLE, 16, seeds)
    clean = replace(inputs, time=torch.zeros(TOKENS.shape))
    with torch.no_grad():
        logits = lm.project(lm.hidden_states(clean))[SCORABLE]
    expected = plain.log_likelihood - cross_entropy(logits, TOKENS[SCORABLE], reduction="sum").double()
    torch.testing.assert_close(found.log_likelihood, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.variance, plain.variance)


@each_noise
def test_neither_batches_nor_chunks_change_a_row(noise: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = table_lm(trained(noise))
    inputs = inputs_from_mask(TOKENS.expand(5, -1), None)
    seeds, scorable = torch.arange(5), SCORABLE.expand(5, -1)
    whole = log_likelihood(lm, inputs, scorable, 32, seeds)
    monkeypatch.setattr(noise_likelihood, "NUMBERS_AT_ONCE", 7)
    parts = log_likelihood(lm, inputs, scorable, 32, seeds, batch_rows=3)
    torch.testing.assert_close(parts.log_likelihood, whole.log_likelihood)
    alone = log_likelihood(lm, inputs_from_mask(TOKENS, None), SCORABLE, 32, seeds[3:4])
    torch.testing.assert_close(alone.log_likelihood, whole.log_likelihood[3:4])


def test_given_tokens_are_read_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    lm, seen = table_lm(trained("uniform")), []
    states = lm.hidden_states

    def noted(inputs: Any) -> Tensor:
        seen.append(inputs.tokens)
        return states(inputs)

    monkeypatch.setattr(lm, "hidden_states", noted)
    log_likelihood(lm, inputs_from_mask(TOKENS, None), SCORABLE, 64, torch.tensor([0]))
    read = torch.cat(seen)
    assert set(read[:, 0].tolist()) == {0}
    assert set(read[:, 1].tolist()) == set(range(SIZE))


@pytest.mark.parametrize(
    ("noise", "bound", "name"),
    [
        ("uniform", "noise", "the NELBO of uniform noise"),
        (
            "uniform",
            "noise-and-reconstruction",
            "the NELBO of uniform noise and the clean text's cross-entropy",
        ),
        ("gidd", "noise", "the NELBO of gidd's noise (p_uniform 0.5, eps 0.0001)"),
    ],
)
def test_what_a_likelihood_is_has_a_name(noise: str, bound: Bound, name: str) -> None:
    assert bound_name(table_lm(trained(noise, bound))) == name


def test_masked_models_keep_theirs() -> None:
    kinds = {
        "bidirectional": "the NELBO of masked diffusion",
        "block-causal": "the NELBO of masked diffusion, block after block",
        "causal": "exact",
    }
    patterns = [
        AttentionPattern("bidirectional"),
        AttentionPattern("block-causal", 2),
        AttentionPattern("causal"),
    ]
    for pattern in patterns:
        assert bound_name(TableLM(SIZE, pattern)) == kinds[pattern.kind]


class MixtureOptions(NoiseScheduleOptions):
    """None."""

    @property
    def noise_destination(self) -> Any:
        return "mixture"


class HalfwaySchedule(NoiseSchedule):
    """It stops where half of the text is left."""

    destination = "mixture"

    def __init__(self, options: MixtureOptions) -> None:
        pass

    @property
    def ends(self) -> tuple[float, float]:
        return 1.0, 0.5

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t / 2

    def alpha_prime(self, t: Tensor) -> Tensor:
        return -torch.ones_like(t) / 2


def test_what_has_no_bound_is_refused_in_a_line() -> None:
    inputs, seeds = inputs_from_mask(TOKENS, None), torch.tensor([1])
    halfway: Registration[NoiseSchedule] = Registration(
        "noise_schedules",
        "halfway",
        MixtureOptions,
        f"{__name__}:HalfwaySchedule",
        "stops halfway",
        Provenance("tests", "0"),
    )
    cases = {
        "knows no bound": table_lm(trained("uniform", "none")),
        "of a bidirectional model": TableLM(SIZE, AttentionPattern("block-causal", 2)),
        "from alpha 1 to 0.5": table_lm(TrainedNoise(ChosenPlugin(halfway, MixtureOptions()), "noise")),
    }
    cases["of a bidirectional model"].noise = trained("uniform")
    for expected, lm in cases.items():
        with pytest.raises(UserError, match=expected) as refused:
            log_likelihood(lm, inputs, SCORABLE, 16, seeds)
        assert "\n" not in str(refused.value)
