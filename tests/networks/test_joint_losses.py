"""Losses of all positions together: the plain ones' values and gradients, a few logits at a time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from opendllm.core.networks.logit_chunks import LOGITS_AT_ONCE
from opendllm.core.networks.token_losses import summed_loss
from opendllm.registries.backbones import JointLoss

from .test_token_losses import DTYPES, HEADS, TOKENS, VOCABULARY, WIDTH, LargestTensor, case

ROWS = 5


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LOGITS_AT_ONCE, "cpu", ROWS * VOCABULARY)


def clipped(nll: Tensor) -> Tensor:
    """A clipped ratio of pairs of positions from different ends: no sum over positions."""
    pairs = -(nll + 0.5 * nll.flip(0)).double()
    ratio = ((pairs - pairs.detach().mean()) / 20).exp()
    advantages = torch.linspace(-1, 1, len(nll), dtype=torch.float64)
    return -torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages).sum()


def guided_logits(head: nn.Module, hidden: Tensor, scale: float) -> Tensor:
    if not scale:
        return head(hidden).float()
    of_prompt, without = head(hidden).float().chunk(2)
    return without + (1 + scale) * (of_prompt - without)


SCALES = pytest.mark.parametrize("scale", [0.0, 1.5], ids=["unguided", "guided"])


@pytest.mark.parametrize("head", HEADS)
@SCALES
@DTYPES
def test_values_and_gradients_are_the_plain_ones(
    head: str, scale: float, dtype: torch.dtype, tolerance: float
) -> None:
    layer, hidden, targets, _ = case(head, dtype)
    if scale:
        hidden, targets = hidden[:-1], targets[:-1]  # pairs
    inputs = [hidden, *layer.parameters()]
    found = summed_loss(layer, hidden, targets, JointLoss(clipped, scale))
    logits = guided_logits(layer, hidden, scale)
    wanted = clipped(cross_entropy(logits, targets[: len(logits)], reduction="none"))
    torch.testing.assert_close(found, wanted, atol=max(1e-5, tolerance / 10), rtol=1e-5)
    for ours, theirs in zip(
        torch.autograd.grad(found * 3, inputs), torch.autograd.grad(wanted * 3, inputs), strict=True
    ):
        assert ours.dtype == dtype
        largest = float(theirs.abs().max())
        torch.testing.assert_close(ours, theirs, atol=tolerance * max(1.0, largest), rtol=tolerance)


@pytest.mark.parametrize("head", HEADS)
@SCALES
def test_no_tensor_has_tokens_times_vocabulary_numbers(head: str, scale: float) -> None:
    layer, hidden, targets, _ = case(head, torch.float32)
    hidden, targets = (each.detach()[:-1] for each in (hidden, targets))
    with LargestTensor() as watched:
        summed_loss(layer, hidden.requires_grad_(), targets, JointLoss(clipped, scale)).backward()
    at_once = 2 * ROWS if scale else ROWS
    assert watched.numbers <= max(at_once * VOCABULARY, WIDTH * VOCABULARY) < TOKENS * VOCABULARY


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_likelihoods_are_the_same_with_and_without_gradients(head: str, dtype: torch.dtype) -> None:
    """To the last bit: the ratio of a policy to itself is 1."""
    layer, hidden, targets, _ = case(head, dtype)
    seen: list[Tensor] = []

    def noted(nll: Tensor) -> Tensor:
        seen.append(nll.detach().clone())
        return nll.sum()

    summed_loss(layer, hidden, targets, JointLoss(noted))
    with torch.no_grad():
        summed_loss(layer, hidden, targets, JointLoss(noted))
    first, second = seen
    assert first.dtype == torch.float32
    assert torch.equal(first, second)


@pytest.mark.parametrize("head", HEADS)
def test_nothing_scored_is_a_loss_of_zero(head: str) -> None:
    layer, hidden, targets, _ = case(head, torch.float32)
    loss = summed_loss(layer, hidden[:0], targets[:0], JointLoss(lambda nll: nll.double().sum()))
    loss.backward()
    assert float(loss.detach()) == 0
    assert hidden.grad is None or not hidden.grad.any()


def test_a_frozen_head_passes_gradients_on() -> None:
    layer, hidden, targets, _ = case("biased", torch.float32)
    layer.requires_grad_(False)
    (ours,) = torch.autograd.grad(summed_loss(layer, hidden, targets, JointLoss(clipped)), hidden)
    wanted = clipped(cross_entropy(layer(hidden), targets, reduction="none"))
    (theirs,) = torch.autograd.grad(wanted, hidden)
    torch.testing.assert_close(ours, theirs)


def test_a_loss_that_is_not_finite_says_so() -> None:
    layer, hidden, targets, _ = case("linear", torch.float32)
    loss = summed_loss(layer, hidden, targets, JointLoss(lambda nll: (nll * torch.inf).sum()))
    assert not torch.isfinite(loss)
