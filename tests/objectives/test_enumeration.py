"""Expected losses of a tiny vocabulary, summed over every mask, against the exact NELBO."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from opendllm.core.toolkit.noise import AddressedNoise
from opendllm.core.toolkit.segments import inputs_from_mask
from opendllm.registries.backbones import DiffusionLM
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.noise_schedules import NoiseSchedule
from opendllm.registries.objectives import Masking, Objective
from opendllm.registries.sequences import TokenRows

VOCABULARY, LENGTH = 3, 3
TOKENS = torch.tensor([[2, 0, 1]])
PATTERNS = torch.tensor(list(itertools.product([False, True], repeat=LENGTH)))
PLUGINS = installed_plugins()
# Times start at 1e-3, so that a thousandth of the integral is left out.
LEFT_OUT = 2.5e-3

NELBOS = [
    ("mdlm", {}, "linear"),
    ("mdlm", {}, "cosine"),
    ("mdlm", {"times": "independent"}, "cosine"),
    ("llada", {"random_length_probability": 0.0}, "linear"),
    ("dream", {"weighting": "1/t"}, "linear"),
]


@pytest.fixture
def nll_of_pattern(random_lm: Callable[..., DiffusionLM]) -> Tensor:
    """[8, L] each token's negative log-likelihood under each mask, 0 where it isn't masked."""
    lm = random_lm(VOCABULARY)
    tokens = TOKENS.expand(len(PATTERNS), -1)
    masked = torch.where(PATTERNS, lm.mask_token_id, tokens)
    table = torch.zeros(PATTERNS.shape)
    table[PATTERNS] = lm.negative_log_likelihood(inputs_from_mask(masked, None), tokens, PATTERNS)
    return table


@pytest.fixture
def exact_nelbo(nll_of_pattern: Tensor) -> float:
    """-log-likelihood in every order: the sum over masks of k tokens, k uniform, times L/k."""
    total = 0.0
    for count in range(1, LENGTH + 1):
        chosen = PATTERNS.sum(-1) == count
        total += float(nll_of_pattern[chosen].sum() / chosen.sum()) / count
    return total


def rows(count: int) -> TokenRows:
    shape = (count, LENGTH)
    zeros = torch.zeros(shape, dtype=torch.int64)
    return TokenRows(
        TOKENS.expand(shape), zeros, zeros, torch.ones(shape, dtype=torch.bool), torch.arange(count)
    )


def expected_loss(
    objective: Objective, schedule: NoiseSchedule, times: Tensor, probability: Tensor, nll_of_pattern: Tensor
) -> float:
    """The mean over times [T] of the sum over masks of P(mask) x loss."""
    repeated = PATTERNS.repeat(len(times), 1)
    over_rows = probability.repeat_interleave(len(PATTERNS))[:, None].expand(-1, LENGTH)
    time = times.repeat_interleave(len(PATTERNS))[:, None].expand(-1, LENGTH)
    corruption = objective.corrupt(
        Masking(repeated, over_rows, time, rows(len(repeated))), schedule, VOCABULARY
    )
    chance = torch.where(repeated, over_rows, 1 - over_rows).prod(-1)
    row = corruption.scored.nonzero()[:, 0]
    nll = nll_of_pattern.repeat(len(times), 1)[corruption.scored]
    return float(objective.loss_sum(nll * chance[row], corruption)) / len(times)


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_mdlm_by_enumeration(name: str, nll_of_pattern: Tensor, exact_nelbo: float) -> None:
    schedule = PLUGINS.noise_schedules.get(name).build()
    times = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    found = expected_loss(
        PLUGINS.objectives.get("mdlm").build(),
        schedule,
        times,
        schedule.mask_probability(times),
        nll_of_pattern,
    )
    assert found == pytest.approx(exact_nelbo, rel=1e-5)


def test_a_weight_of_another_schedule_does_not_give_the_nelbo(
    nll_of_pattern: Tensor, exact_nelbo: float
) -> None:
    """The control: what pairs is the probability and the weight of one schedule."""
    linear, cosine = (PLUGINS.noise_schedules.get(name).build() for name in ("linear", "cosine"))
    times = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    mdlm = PLUGINS.objectives.get("mdlm").build()
    found = expected_loss(mdlm, linear, times, cosine.mask_probability(times), nll_of_pattern)
    assert abs(found / exact_nelbo - 1) > 0.05


@pytest.mark.parametrize("name", ["llada", "dream"])
def test_reciprocal_weights_by_enumeration(name: str, nll_of_pattern: Tensor, exact_nelbo: float) -> None:
    linear = PLUGINS.noise_schedules.get("linear").build()
    times = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    objective = PLUGINS.objectives.get(name).build()
    found = expected_loss(objective, linear, times, times, nll_of_pattern)
    assert found == pytest.approx(exact_nelbo, rel=1e-5)


@pytest.mark.parametrize(("name", "options", "schedule_name"), NELBOS)
def test_drawn_masks_give_the_nelbo(
    name: str, options: dict[str, Any], schedule_name: str, nll_of_pattern: Tensor, exact_nelbo: float
) -> None:
    """The masks, times and probabilities that the objective draws itself belong together."""
    count = 1 << 17
    schedule = PLUGINS.noise_schedules.get(schedule_name).build()
    objective = PLUGINS.objectives.get(name).build(options)
    batch = rows(count)
    corruption = objective.corrupt(
        objective.mask(batch, AddressedNoise(0, batch, 512), schedule), schedule, VOCABULARY
    )
    number = (corruption.scored.long() * torch.tensor([4, 2, 1])).sum(-1)
    nll = nll_of_pattern[number][corruption.scored]
    losses = torch.zeros(count, dtype=torch.float64)
    losses.index_add_(0, corruption.scored.nonzero()[:, 0], corruption.weight * nll.double())
    assert float(losses.sum()) == pytest.approx(float(objective.loss_sum(nll, corruption)), rel=1e-9)
    error = float(losses.std()) / count**0.5
    assert error < 0.02 * exact_nelbo
    assert abs(float(losses.mean()) - exact_nelbo) < 4 * error + LEFT_OUT * exact_nelbo


@pytest.mark.parametrize("name", ["mdlm", "llada", "dream", "open-dcoder"])
def test_tokens_are_masked_as_often_as_stated(name: str) -> None:
    count = 1 << 15
    schedule = PLUGINS.noise_schedules.get("linear").build()
    batch = rows(count)
    masking = PLUGINS.objectives.get(name).build().mask(batch, AddressedNoise(5, batch, 512), schedule)
    kept = masking.rows.maskable
    surplus = (masking.masked.double() - masking.mask_probability)[kept]
    assert abs(float(surplus.mean())) < 4 * float(surplus.std()) / len(surplus) ** 0.5
    for low in (0.0, 0.25, 0.5, 0.75):
        inside = kept & (masking.mask_probability >= low) & (masking.mask_probability < low + 0.25)
        share = masking.masked[inside].double().mean()
        assert float(share) == pytest.approx(low + 0.125, abs=0.02)
    torch.testing.assert_close(schedule.mask_probability(masking.time), masking.mask_probability)
