"""The chunked cross-entropy: the plain one's values and gradients, without its logits."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from opendllm.core.toolkit import token_losses as module
from opendllm.core.toolkit.token_losses import token_losses

TOKENS, WIDTH, VOCABULARY = 37, 12, 50


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five tokens at once, so that the last chunk is a part."""
    monkeypatch.setitem(module.LOGITS_AT_ONCE, "cpu", 5 * VOCABULARY)


class Scaled(nn.Module):
    """A head that is no `nn.Linear`."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.inner(hidden) * 0.5


HEADS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(WIDTH, VOCABULARY, bias=False),
    "biased": lambda: nn.Linear(WIDTH, VOCABULARY),
    "another": Scaled,
}


def plain(head: nn.Module, hidden: Tensor, targets: Tensor) -> Tensor:
    return cross_entropy(head(hidden).float(), targets, reduction="none")


def case(head: str, dtype: torch.dtype) -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    hidden = (torch.randn(TOKENS, WIDTH) * 3).to(dtype).requires_grad_()
    return HEADS[head]().to(dtype), hidden, torch.randint(VOCABULARY, (TOKENS,)), torch.rand(TOKENS)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-5), (torch.bfloat16, 2e-2)]
)
def test_losses_and_gradients_are_the_plain_ones(head: str, dtype: torch.dtype, tolerance: float) -> None:
    layer, hidden, targets, weight = case(head, dtype)
    inputs = [hidden, *layer.parameters()]
    found, wanted = token_losses(layer, hidden, targets), plain(layer, hidden, targets)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    for ours, theirs in zip(
        torch.autograd.grad((found * weight).sum(), inputs),
        torch.autograd.grad((wanted * weight).sum(), inputs),
        strict=True,
    ):
        assert ours.dtype == dtype
        torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=tolerance)


def test_an_embedding_that_is_also_the_head_gets_both_gradients() -> None:
    torch.manual_seed(0)
    embedding, head = nn.Embedding(VOCABULARY, WIDTH), nn.Linear(WIDTH, VOCABULARY, bias=False)
    head.weight = embedding.weight
    tokens = torch.randint(VOCABULARY, (TOKENS,))
    gradients = []
    for losses in (token_losses, plain):
        embedding.zero_grad()
        losses(head, embedding(tokens).tanh(), tokens.flip(0)).sum().backward()
        assert embedding.weight.grad is not None
        gradients.append(embedding.weight.grad.clone())
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-5)


def test_a_frozen_head_passes_gradients_on() -> None:
    layer, hidden, targets, _ = case("biased", torch.float32)
    layer.requires_grad_(False)
    token_losses(layer, hidden, targets).sum().backward()
    ours, hidden.grad = hidden.grad, None
    plain(layer, hidden, targets).sum().backward()
    assert ours is not None
    torch.testing.assert_close(ours, hidden.grad)


@pytest.mark.parametrize("head", HEADS)
def test_without_gradients_the_losses_are_the_same_and_none_are_none(head: str) -> None:
    layer, hidden, targets, _ = case(head, torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(token_losses(layer, hidden, targets), plain(layer, hidden, targets))
        assert token_losses(layer, hidden[:0], targets[:0]).shape == (0,)
    nothing = token_losses(layer, hidden[:0], targets[:0])
    nothing.sum().backward()
    assert nothing.shape == (0,)


class LargestTensor(torch.utils._python_dispatch.TorchDispatchMode):
    """Watches what every operation makes."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        found = func(*args, **(kwargs or {}))
        for tensor in found if isinstance(found, tuple | list) else (found,):
            if isinstance(tensor, Tensor):
                self.numbers = max(self.numbers, tensor.numel())
        return found


@pytest.mark.parametrize("head", HEADS)
def test_no_tensor_has_tokens_times_vocabulary_numbers(head: str) -> None:
    layer, hidden, targets, _ = case(head, torch.float32)
    with LargestTensor() as watched:
        token_losses(layer, hidden, targets).sum().backward()
    assert watched.numbers <= max(5 * VOCABULARY, WIDTH * VOCABULARY)
    with LargestTensor() as control:
        plain(layer, hidden, targets).sum().backward()
    assert control.numbers == TOKENS * VOCABULARY
