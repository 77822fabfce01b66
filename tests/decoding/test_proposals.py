"""Proposals and confidences against their definitions, one position at a time."""

from __future__ import annotations

import itertools

import pytest
import torch

from opendllm.core.decoding import proposals as module
from opendllm.core.decoding.proposals import Filters, Proposals, SuppressedToken, propose
from opendllm.registries.samplers import Confidence

VOCABULARY, MASK, POSITIONS = 9, 4, 40
CONFIDENCES: tuple[Confidence, ...] = ("probability", "model_probability", "margin", "negative_entropy")
SETTINGS = [
    Filters(temperature, top_p, top_k)
    for temperature, (top_p, top_k) in itertools.product(
        (0.0, 0.6, 1.0), ((None, None), (0.7, None), (None, 3), (0.9, 4), (None, 1))
    )
]


def filtered_by_hand(logits: torch.Tensor, filters: Filters) -> torch.Tensor:
    """[V] float64: the probabilities that temperature, top-p and top-k leave, the mask's among them."""
    scaled = logits.double() / (filters.temperature or 1.0)
    keep = torch.ones_like(scaled, dtype=torch.bool)
    if filters.top_p is not None:
        best_first = scaled.argsort(descending=True)
        probabilities = scaled.softmax(-1)[best_first]
        keep[best_first] = probabilities.cumsum(-1) - probabilities <= filters.top_p
    if filters.top_k is not None:
        keep &= scaled >= scaled.sort(descending=True).values[filters.top_k - 1]
    return scaled.masked_fill(~keep, -torch.inf).softmax(-1)


def confidence_by_hand(
    logits: torch.Tensor, filters: Filters, token: int, confidence: Confidence
) -> torch.Tensor:
    if confidence == "model_probability":
        return logits.double().softmax(-1)[token]
    probabilities = filtered_by_hand(logits, filters)
    if confidence == "probability":
        return probabilities[token]
    if confidence == "negative_entropy":
        return torch.special.xlogy(probabilities, probabilities).sum()
    first, second = probabilities.topk(2).values
    return first - second


def case(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits in half of which the mask is likely, and a draw a position."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(POSITIONS, VOCABULARY, generator=generator) * 2
    logits[::2, MASK] += 4
    return logits, torch.rand(POSITIONS, generator=generator, dtype=torch.float64)


def assert_drawn(logits: torch.Tensor, uniform: float, filters: Filters, token: int) -> None:
    """The mode, or the draw's place among the probabilities that aren't the mask's."""
    others = filtered_by_hand(logits, filters)
    others[MASK] = 0
    if filters.temperature == 0 or others.sum() == 0:
        assert token == int(logits.index_fill(0, torch.tensor(MASK), -torch.inf).argmax())
        return
    reached = (others / others.sum()).cumsum(-1)
    assert others[token] > 0
    assert (
        float(reached[token] - others[token] / others.sum()) - 1e-6 <= uniform <= float(reached[token]) + 1e-6
    )


@pytest.fixture(autouse=True, params=[1 << 20, 7 * VOCABULARY], ids=["at once", "in parts"])
def _at_once(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module.ELEMENTS_AT_ONCE, "cpu", request.param)


@pytest.mark.parametrize("filters", SETTINGS, ids=str)
@pytest.mark.parametrize("confidence", CONFIDENCES)
def test_the_mask_is_never_proposed_but_counts(filters: Filters, confidence: Confidence) -> None:
    logits, uniforms = case(1)
    found = propose(logits.clone(), uniforms, MASK, filters, confidence)
    assert not bool((found.tokens == MASK).any())
    check(logits, uniforms, filters, confidence, found)


@pytest.mark.parametrize("filters", SETTINGS, ids=str)
def test_a_suppressed_token_counts_nowhere(filters: Filters) -> None:
    logits, uniforms = case(2)
    where = torch.arange(POSITIONS) % 3 == 0
    suppressed = [SuppressedToken(2, where), SuppressedToken(7, None)]
    found = propose(logits.clone(), uniforms, MASK, filters, "probability", suppressed)
    logits[where, 2] = -torch.inf
    logits[:, 7] = -torch.inf
    check(logits, uniforms, filters, "probability", found)


def check(
    logits: torch.Tensor, uniforms: torch.Tensor, filters: Filters, confidence: Confidence, found: Proposals
) -> None:
    assert bool(found.finite.all())
    wanted = []
    for row, uniform, token in zip(logits, uniforms.tolist(), found.tokens.tolist(), strict=True):
        assert_drawn(row, uniform, filters, token)
        wanted.append(confidence_by_hand(row, filters, token, confidence))
    torch.testing.assert_close(found.confidence.double(), torch.stack(wanted), rtol=1e-4, atol=1e-5)
