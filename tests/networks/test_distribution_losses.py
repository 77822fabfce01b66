"""Losses of whole distributions: the plain ones' values and gradients, a few positions' logits at a time."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from opendllm.core.networks.logit_chunks import LOGITS_AT_ONCE
from opendllm.core.networks.token_losses import summed_loss
from opendllm.core.toolkit.noise_bound import NoiseAt, NoisyTokens, bound
from opendllm.registries.backbones import DistributionLoss
from opendllm.registries.discovery import installed_plugins

from .test_token_losses import DTYPES, HEADS, TOKENS, VOCABULARY, WIDTH, LargestTensor, case

ROWS = 5


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LOGITS_AT_ONCE, "cpu", ROWS * VOCABULARY)


def of_noise(targets: Tensor) -> Callable[[Tensor, slice], Tensor]:
    """The bound of uniform noise, at a time and under noise of its own for each position."""
    noise = installed_plugins().noise_schedules.get("linear").build({"destination": "uniform"})
    times = torch.linspace(0.05, 0.95, len(targets), dtype=torch.float64)
    noisy = torch.where(times > 0.5, targets, (targets * 7 + 3) % VOCABULARY)

    def loss(logits: Tensor, chosen: slice) -> Tensor:
        tokens = NoisyTokens(targets[chosen], noisy[chosen], VOCABULARY - 1)
        return bound(logits, tokens, NoiseAt.of(noise, times[chosen], VOCABULARY)).sum()

    return loss


@pytest.mark.parametrize("head", HEADS)
@DTYPES
def test_values_and_gradients_are_the_plain_ones(head: str, dtype: torch.dtype, tolerance: float) -> None:
    layer, hidden, targets, _ = case(head, dtype)
    inputs, loss = [hidden, *layer.parameters()], of_noise(targets)
    found = summed_loss(layer, hidden, targets, DistributionLoss(loss))
    wanted = loss(layer(hidden).float(), slice(0, TOKENS))
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=max(1e-5, tolerance / 20))
    for ours, theirs in zip(
        torch.autograd.grad(found * 3, inputs), torch.autograd.grad(wanted * 3, inputs), strict=True
    ):
        assert ours.dtype == dtype
        largest = float(theirs.abs().max())
        torch.testing.assert_close(ours, theirs, atol=tolerance * max(1.0, largest), rtol=tolerance)


@pytest.mark.parametrize("head", HEADS)
def test_each_position_is_in_one_part_and_no_part_is_large(head: str) -> None:
    layer, hidden, targets, _ = case(head, torch.float32)
    parts: list[int] = []

    def noted(logits: Tensor, chosen: slice) -> Tensor:
        assert logits.shape == (chosen.stop - chosen.start, VOCABULARY)
        assert len(logits) <= ROWS
        parts.extend(range(TOKENS)[chosen])
        return logits.sum()

    summed_loss(layer, hidden, targets, DistributionLoss(noted))
    assert parts == list(range(TOKENS))


@pytest.mark.parametrize("head", HEADS)
def test_no_tensor_has_tokens_times_vocabulary_numbers(head: str) -> None:
    layer, hidden, targets, _ = case(head, torch.float32)
    with LargestTensor() as watched:
        summed_loss(layer, hidden, targets, DistributionLoss(of_noise(targets))).backward()
    assert watched.numbers <= max(ROWS * VOCABULARY, WIDTH * VOCABULARY)


@pytest.mark.parametrize("head", HEADS)
def test_without_gradients_or_positions(head: str) -> None:
    layer, hidden, targets, _ = case(head, torch.float32)
    loss = of_noise(targets)
    with torch.no_grad():
        found = summed_loss(layer, hidden, targets, DistributionLoss(loss))
        torch.testing.assert_close(found, loss(layer(hidden), slice(0, TOKENS)))
    empty = summed_loss(layer, hidden[:0], targets[:0], DistributionLoss(of_noise(targets[:0])))
    empty.backward()
    assert float(empty.detach()) == 0


def test_a_frozen_head_passes_gradients_on() -> None:
    layer, hidden, targets, _ = case("biased", torch.float32)
    assert isinstance(layer, nn.Linear)
    layer.requires_grad_(False)
    loss = of_noise(targets)
    (ours,) = torch.autograd.grad(summed_loss(layer, hidden, targets, DistributionLoss(loss)), hidden)
    (theirs,) = torch.autograd.grad(loss(layer(hidden), slice(0, TOKENS)), hidden)
    torch.testing.assert_close(ours, theirs)
