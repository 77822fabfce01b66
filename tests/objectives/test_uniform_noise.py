"""Uniform noise and mixtures: what is drawn follows the schedule's law, and its loss is the bound."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from opendllm.core.testing.table_lm import TableLM
from opendllm.core.toolkit.corrupting import noised
from opendllm.core.toolkit.noise import AddressedNoise
from opendllm.core.toolkit.noise_bound import NoiseAt, NoisyTokens, bound, divergence
from opendllm.registries.backbones import DistributionLoss
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.noise_schedules import NoiseSchedule
from opendllm.registries.objectives import Corruption
from opendllm.registries.sequences import TokenIds, TokenRows

PLUGINS = installed_plugins()
IDS = TokenIds(6, 5)
CLEAN = 2
SCHEDULES: list[tuple[str, dict[str, Any]]] = [
    ("linear", {}),
    ("linear", {"destination": "uniform"}),
    ("cosine", {"destination": "uniform", "eps": 0.1}),
    ("gidd", {"p_uniform": 0.5}),
    ("gidd-log-snr", {"shift": 0.5}),
]
PAIRS = [
    ("duo", "linear", {"destination": "uniform"}),
    ("gidd", "gidd", {"p_uniform": 0.3, "eps": 0.05}),
]


def schedule(name: str, options: dict[str, Any]) -> NoiseSchedule:
    return PLUGINS.noise_schedules.get(name).build(options)


def rows(count: int, length: int = 4, token: int = CLEAN) -> TokenRows:
    tokens = torch.full((count, length), token)
    maskable = torch.ones_like(tokens, dtype=torch.bool)
    zeros = torch.zeros_like(tokens)
    return TokenRows(tokens, zeros, zeros, maskable, torch.arange(count), ids=IDS)


@pytest.mark.parametrize(("name", "options"), SCHEDULES)
@pytest.mark.parametrize("time", [0.1, 0.6])
def test_tokens_are_replaced_by_the_schedules_law(name: str, options: dict[str, Any], time: float) -> None:
    noise, clean = schedule(name, options), rows(20_000)
    t = torch.full((1, 1), time, dtype=torch.float64)
    masking = noised(clean, t, AddressedNoise(0, clean, 8), noise)
    assert masking.noisy is not None
    mass, alpha = noise.noise_mass(t, IDS.size), float(noise.alpha(t))
    law = mass.other.flatten().expand(IDS.size).clone()
    law[IDS.mask_token_id] = mass.mask.flatten()[0]
    law[CLEAN] += alpha
    count = masking.noisy.numel()
    found = torch.bincount(masking.noisy.flatten(), minlength=IDS.size).double()
    error = (law * (1 - law) * count).sqrt()
    assert bool(((found - law * count).abs() <= 4.5 * error + 1e-9).all())
    torch.testing.assert_close(masking.mask_probability, torch.full_like(masking.time, 1 - alpha))


def test_masks_are_the_same_masks_through_either_door() -> None:
    """What survives is decided by the numbers that masking is decided by."""
    clean, noise = rows(50), schedule("linear", {})
    t = torch.full((1, 1), 0.4, dtype=torch.float64)
    draws = AddressedNoise(3, clean, 8)
    masking = noised(clean, t, draws, noise)
    expected = torch.where(draws.per_token("mask") < 0.4, IDS.mask_token_id, CLEAN)
    assert masking.noisy is not None
    assert torch.equal(masking.noisy, expected)


@pytest.mark.parametrize(("objective", "name", "options"), PAIRS)
def test_the_loss_is_unbiased(objective: str, name: str, options: dict[str, Any]) -> None:
    """The mean over drawn times and tokens is the integral's, over the times that are trained on."""
    noise = schedule(name, options)
    chosen = PLUGINS.objectives.get(objective).build({"weighting": "elbo"} if objective == "gidd" else {})
    lm, clean = TableLM(IDS.size), rows(60_000, 1)
    masking = chosen.mask(clean, AddressedNoise(1, clean, 60_000), noise)
    corruption = chosen.corrupt(masking, noise, IDS.mask_token_id)
    with torch.no_grad():
        logits = lm.project(lm.hidden_states(corruption.inputs)[corruption.scored]).double()
    found = chosen.position_losses(logits, corruption.positions(), noise)
    low, high = noise.interval
    low = max(low, 1e-3) if objective == "duo" else low
    t = low + (high - low) * (torch.arange(1, 4000, dtype=torch.float64) / 4000) ** 3
    step = 3 * (high - low) * (torch.arange(1, 4000, dtype=torch.float64) / 4000) ** 2 / 4000
    expected = float((mean_integrand(lm, noise, t) * step).sum()) / (high - low)
    error = float(found.std()) / len(found) ** 0.5
    assert error < 0.1 * expected
    assert abs(float(found.mean()) - expected) < 4 * error


@torch.no_grad()
def mean_integrand(lm: TableLM, noise: NoiseSchedule, t: Tensor) -> Tensor:
    """Of one token alone in its row, over what noise makes of it, at times [T]."""
    alone = torch.arange(IDS.size)[:, None]
    inputs = rows(IDS.size, 1)
    read = Corruption.of_replaced(
        PLUGINS.objectives.get("duo")
        .build()
        .mask(inputs, AddressedNoise(0, inputs, 1), schedule("linear", {})),
        count=torch.ones(()),
    ).inputs.with_tokens(alone)
    logits = lm.project(lm.hidden_states(read)[:, 0]).double()
    total = torch.zeros_like(t)
    for noisy in range(IDS.size):
        tokens = NoisyTokens(torch.full((len(t),), CLEAN), torch.full((len(t),), noisy), IDS.mask_token_id)
        mass = noise.noise_mass(t, IDS.size)
        chance = mass.mask if noisy == IDS.mask_token_id else mass.other
        chance = chance + noise.alpha(t) * (noisy == CLEAN)
        total += chance * bound(logits[noisy].expand(len(t), -1), tokens, NoiseAt.of(noise, t, IDS.size))
    return total


@pytest.mark.parametrize("name", ["uniform", "gidd", "log-snr"])
def test_the_divergence_is_never_negative_and_zero_where_the_model_is_right(name: str) -> None:
    noise = {
        "uniform": schedule("linear", {"destination": "uniform"}),
        "gidd": schedule("gidd", {}),
        "log-snr": schedule("gidd-log-snr", {}),
    }[name]
    t = torch.tensor([1e-4, 0.01, 0.3, 0.7, 0.99, 1 - 1e-6], dtype=torch.float64).repeat(IDS.size)
    noisy = torch.arange(IDS.size).repeat_interleave(6)
    tokens = NoisyTokens(torch.full_like(noisy, CLEAN), noisy, IDS.mask_token_id)
    at = NoiseAt.of(noise, t, IDS.size)
    for dtype in (torch.float32, torch.float64):
        logits = torch.randn(len(t), IDS.size, generator=torch.Generator().manual_seed(0)).to(dtype)
        assert bool((divergence(logits, tokens, at) >= 0).all())
        right = torch.full_like(logits, -1e4).index_fill(1, torch.tensor(CLEAN), 0.0)
        assert float(divergence(right, tokens, at).abs().max()) < 1e-12


def test_gradients_are_exact() -> None:
    """Against finite differences in float64."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, IDS.size, generator=generator, dtype=torch.float64, requires_grad=True)
    tokens = NoisyTokens(torch.full((6,), CLEAN), torch.arange(6), IDS.mask_token_id)
    t = torch.linspace(0.1, 0.9, 6, dtype=torch.float64)
    for noise in (
        schedule("linear", {"destination": "uniform"}),
        schedule("gidd", {}),
        schedule("linear", {}),
    ):
        at = NoiseAt.of(noise, t, IDS.size)
        assert torch.autograd.gradcheck(lambda given, at=at: bound(given, tokens, at), (logits,))


def test_udlm_reads_each_row_twice_where_it_reconstructs() -> None:
    clean, noise = rows(8), schedule("linear", {"destination": "uniform"})
    for options, copies in (({}, 2), ({"zero_recon_loss": True}, 1)):
        registration = PLUGINS.objectives.get("udlm")
        udlm = registration.build(options)
        masking = udlm.mask(clean, AddressedNoise(0, clean, 8), noise)
        corruption = udlm.corrupt(masking, noise, IDS.mask_token_id)
        assert len(corruption.inputs.tokens) == 8 * copies
        assert float(corruption.count) == clean.tokens.numel()
        chosen: Any = registration.options.model_validate(options)
        assert chosen.copies_per_row == copies
        assert chosen.bound == ("noise-and-reconstruction" if copies == 2 else "noise")


def test_a_model_is_told_the_time_only_where_that_is_asked_for() -> None:
    clean, noise = rows(8), schedule("loglinear", {"destination": "uniform"})
    for conditioned in (False, True):
        duo = PLUGINS.objectives.get("duo").build({"time_conditioning": conditioned})
        masking = duo.mask(clean, AddressedNoise(0, clean, 8), noise)
        time = duo.corrupt(masking, noise, IDS.mask_token_id).inputs.time
        assert (time is not None) == conditioned
        if time is not None:
            torch.testing.assert_close(time, -noise.alpha(masking.time).log())


def test_parts_of_a_distribution_loss_share_its_count() -> None:
    clean, noise = rows(8), schedule("linear", {"destination": "uniform"})
    duo = PLUGINS.objectives.get("duo").build()
    corruption = duo.corrupt(duo.mask(clean, AddressedNoise(0, clean, 8), noise), noise, 5)
    logits = torch.randn(32, IDS.size, generator=torch.Generator().manual_seed(0))
    whole, halved = (duo.loss_part(corruption, noise, count) for count in (1.0, 2.0))
    assert isinstance(whole, DistributionLoss)
    assert isinstance(halved, DistributionLoss)
    every = slice(0, 32)
    torch.testing.assert_close(halved.of(logits, every), whole.of(logits, every) / 2)


@pytest.mark.parametrize(
    ("kind", "name", "options", "expected"),
    [
        ("noise_schedules", "gidd", {"p_uniform": 1}, "use objective duo"),
        ("noise_schedules", "gidd", {"p_uniform": 1.5}, "less than or equal to 1"),
        ("noise_schedules", "linear", {"destination": "mixture"}, "'mask' or 'uniform'"),
        ("noise_schedules", "gidd", {"destination": "mask"}, "Extra inputs"),
        ("objectives", "gidd", {"weighting": "elbo", "max_weight": 3}, "no effect with weighting elbo"),
        ("objectives", "gidd", {"min_weight": 3}, "must not be above"),
    ],
)
def test_bad_options_are_refused(kind: str, name: str, options: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValidationError, match=expected):
        PLUGINS.of_kind(kind).get(name).build(options)
