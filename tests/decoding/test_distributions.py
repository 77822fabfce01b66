"""What is drawn follows the exact distribution, in its tail too."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from scipy import stats

from opendllm.core.checkpoints.loading import Checkpoint
from opendllm.core.language_model import LanguageModel
from opendllm.core.testing.table_lm import TableLM
from opendllm.core.toolkit.draws import draw_from
from opendllm.core.toolkit.segments import inputs_from_mask
from opendllm.registries.discovery import installed_plugins

MASK = 5
DRAWS = 12_000


def exact_joint(lm: TableLM, canvas: torch.Tensor, temperature: float) -> torch.Tensor:
    """[V, V]: of the two masks of `canvas` [L], written from left to right."""
    first, second = (canvas == MASK).nonzero()[:, 0].tolist()

    def distribution(row: torch.Tensor, position: int) -> torch.Tensor:
        logits = lm.project(lm.hidden_states(inputs_from_mask(row[None], None)))[0, position].double()
        logits[MASK] = -torch.inf
        return (logits / temperature).softmax(-1)

    joint = torch.zeros(MASK, MASK, dtype=torch.float64)
    opening = distribution(canvas, first)
    for token in range(MASK):
        row = canvas.clone()
        row[first] = token
        joint[token] = opening[token] * distribution(row, second)[:MASK]
    return joint


@pytest.mark.parametrize("sampler", ["ancestral", "low-confidence", "entropy", "p2", "confidence-threshold"])
@pytest.mark.parametrize("temperature", [0.7, 1.0, 2.0])
def test_two_tokens_follow_the_joint_distribution(sampler: str, temperature: float) -> None:
    """Blocks of one fix the order, so that the model's own joint distribution is known exactly."""
    torch.manual_seed(0)
    lm = TableLM(MASK + 1)
    canvas = torch.tensor([1, MASK, 3, MASK])
    with torch.no_grad():
        wanted = exact_joint(lm, canvas, temperature) * DRAWS
    model = LanguageModel(Checkpoint(lm, None, None), sampler, installed_plugins())
    options: dict[str, Any] = {"temperature": temperature, "block_length": 1, "seed": 11}
    tokens = model.sample(canvas.repeat(DRAWS, 1), **options).tokens
    counts = torch.bincount(tokens[:, 1] * MASK + tokens[:, 3], minlength=MASK * MASK).view(MASK, MASK)
    rare = wanted < 5
    groups = [counts[~rare], counts[rare].sum()[None]], [wanted[~rare], wanted[rare].sum()[None]]
    observed, expected = (torch.cat(group).double().numpy() for group in groups)
    kept = expected > 0
    assert stats.chisquare(observed[kept], expected[kept]).pvalue > 1e-3


def tail_of_float32_gumbel(gap: float) -> float:
    """How often float32 Gumbel noise draws a token whose logit lies `gap` below the other one's.

    Over all 2^24 float32 uniforms of the improbable token, exactly over those of the other.
    """
    uniforms = torch.arange(1, 2**24, dtype=torch.float32) * 2.0**-24
    noise = -torch.log(-torch.log(uniforms))
    return float(torch.exp(-torch.exp(-(noise.double() - gap))).sum()) * 2.0**-24


def tail_of_ours(gap: float) -> float:
    """The share of uniforms that our draw gives to that token, by bisection."""
    weights = torch.tensor([[1.0, math.exp(-gap)]], dtype=torch.float32)
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if int(draw_from(weights, torch.tensor([middle], dtype=torch.float64))) == 0:
            low = middle
        else:
            high = middle
    return 1 - high


@pytest.mark.parametrize("gap", [2.0, 8.0, 17.0, 20.0, 25.0])
def test_improbable_tokens_are_drawn_as_often_as_they_should_be(gap: float) -> None:
    exact = 1 / (1 + math.exp(gap))
    assert tail_of_ours(gap) == pytest.approx(exact, rel=1e-4)


def test_careless_gumbel_noise_is_seen_by_this_measure() -> None:
    """It is right at small gaps, and all but loses the tail: a lower temperature than was asked for."""
    assert tail_of_float32_gumbel(2.0) == pytest.approx(1 / (1 + math.exp(2.0)), rel=1e-3)
    for gap in (17.0, 20.0):
        assert tail_of_float32_gumbel(gap) < 0.85 / (1 + math.exp(gap))
