"""The chunked cross-entropy: the plain one's values and gradients, without its logits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from opendllm.core.networks import fused_slopes, logit_chunks
from opendllm.core.networks.logit_chunks import LOGITS_AT_ONCE
from opendllm.core.networks.token_losses import ScoringHead, let_score, summed_loss, token_losses
from opendllm.registries.sequences import ModelInputs

TOKENS, WIDTH, VOCABULARY = 37, 12, 50


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five tokens at once, so that the last chunk is a part."""
    monkeypatch.setitem(LOGITS_AT_ONCE, "cpu", 5 * VOCABULARY)


class Scaled(nn.Module):
    """A head that is no `nn.Linear`."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.inner(hidden) * 0.5


HEADS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: ScoringHead(WIDTH, VOCABULARY, bias=False),
    "biased": lambda: ScoringHead(WIDTH, VOCABULARY),
    "another": Scaled,
}


def plain(head: nn.Module, hidden: Tensor, targets: Tensor) -> Tensor:
    return cross_entropy(head(hidden).float(), targets, reduction="none")


def case(head: str, dtype: torch.dtype) -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    hidden = (torch.randn(TOKENS, WIDTH) * 3).to(dtype).requires_grad_()
    return HEADS[head]().to(dtype), hidden, torch.randint(VOCABULARY, (TOKENS,)), torch.rand(TOKENS)


DTYPES = pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-5), (torch.bfloat16, 2e-2)]
)


@pytest.mark.parametrize("head", HEADS)
@DTYPES
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


def curved(nll: Tensor, weight: Tensor) -> Tensor:
    """A loss with a slope of its own at each token, as Open-dCoder's path term is."""
    return (weight.double() * (nll + torch.exp(-nll).detach() * nll)).sum()


@pytest.mark.parametrize("head", HEADS)
@DTYPES
def test_the_summed_loss_and_its_gradients_are_the_plain_ones(
    head: str, dtype: torch.dtype, tolerance: float
) -> None:
    layer, hidden, targets, weight = case(head, dtype)
    inputs = [hidden, *layer.parameters()]
    found = summed_loss(layer, hidden, targets, lambda nll, chosen: curved(nll, weight[chosen]))
    wanted = curved(plain(layer, hidden, targets), weight)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    for ours, theirs in zip(
        torch.autograd.grad(found * 3, inputs), torch.autograd.grad(wanted * 3, inputs), strict=True
    ):
        assert ours.dtype == dtype
        largest = float(theirs.abs().max())
        torch.testing.assert_close(ours, theirs, atol=tolerance * max(1.0, largest), rtol=tolerance)


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """What a GPU computes, without compiling it; gives the shapes of the chunks."""
    chunks: list[tuple[int, ...]] = []

    def totals(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        chunks.append(tuple(logits.shape))
        return fused_slopes.log_totals(logits, targets)

    monkeypatch.setattr(fused_slopes, "serve", lambda hidden: True)
    monkeypatch.setattr(fused_slopes, "_compiled", lambda: (totals, fused_slopes.write_slopes))
    monkeypatch.setattr(logit_chunks, "FUSED_LOGITS_AT_ONCE", 16 * VOCABULARY)
    return chunks


@pytest.mark.parametrize("head", ["linear", "biased"])
@DTYPES
def test_fused_slopes_are_the_plain_ones_in_larger_chunks(
    fused: list[tuple[int, ...]], head: str, dtype: torch.dtype, tolerance: float
) -> None:
    test_the_summed_loss_and_its_gradients_are_the_plain_ones(head, dtype, tolerance)
    assert fused == [(16, VOCABULARY), (16, VOCABULARY), (5, VOCABULARY)]


def total(nll: Tensor, _chosen: slice) -> Tensor:
    return nll.sum()


def test_an_embedding_that_is_also_the_head_gets_both_gradients() -> None:
    torch.manual_seed(0)
    embedding, head = nn.Embedding(VOCABULARY, WIDTH), ScoringHead(WIDTH, VOCABULARY, bias=False)
    head.weight = embedding.weight
    tokens = torch.randint(VOCABULARY, (TOKENS,))
    gradients = []
    for ours in (True, False):
        embedding.zero_grad()
        hidden, targets = embedding(tokens).tanh(), tokens.flip(0)
        loss = summed_loss(head, hidden, targets, total) if ours else plain(head, hidden, targets).sum()
        loss.backward()
        assert embedding.weight.grad is not None
        gradients.append(embedding.weight.grad.clone())
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-5)


def test_a_frozen_head_passes_gradients_on() -> None:
    layer, hidden, targets, _ = case("biased", torch.float32)
    layer.requires_grad_(False)
    summed_loss(layer, hidden, targets, total).backward()
    ours, hidden.grad = hidden.grad, None
    plain(layer, hidden, targets).sum().backward()
    assert ours is not None
    torch.testing.assert_close(ours, hidden.grad)


@pytest.mark.parametrize("head", HEADS)
def test_without_gradients_the_losses_are_the_same(head: str) -> None:
    layer, hidden, targets, _ = case(head, torch.float32)
    with torch.no_grad():
        wanted = plain(layer, hidden, targets)
        torch.testing.assert_close(token_losses(layer, hidden, targets), wanted)
        torch.testing.assert_close(summed_loss(layer, hidden, targets, total), wanted.sum())


@pytest.mark.parametrize("count", [TOKENS, 11, 5, 0])
def test_a_head_is_called_once_however_many_tokens_are_scored(count: int) -> None:
    """Under ZeRO 3 each call gathers its weight, which all processes have to do as often: else they wait for
    one another without end."""
    layer, hidden, targets, _ = case("linear", torch.float32)
    calls: list[Tensor] = []
    layer.register_forward_hook(lambda _layer, _given, found: calls.append(found))
    with torch.no_grad():
        found = token_losses(layer, hidden[:count], targets[:count])
        summed_loss(layer, hidden[:count], targets[:count], total)
    summed_loss(layer, hidden[:count], targets[:count], total)
    assert len(calls) == 3
    torch.testing.assert_close(found, plain(layer, hidden[:count], targets[:count]))


@pytest.mark.parametrize("head", HEADS)
def test_a_batch_without_a_scored_token_has_a_loss_of_zero(head: str) -> None:
    layer, hidden, targets, _ = case(head, torch.float32)
    assert token_losses(layer, hidden[:0], targets[:0]).shape == (0,)
    loss = summed_loss(layer, hidden[:0], targets[:0], total)
    loss.backward()
    assert float(loss.detach()) == 0
    assert hidden.grad is None or not hidden.grad.any()


class LargestTensor(torch.utils._python_dispatch.TorchDispatchMode):
    """Watches what every operation makes."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for tensor in found if isinstance(found, tuple | list) else (found,):
            if isinstance(tensor, Tensor):
                self.numbers = max(self.numbers, tensor.numel())
        return found


@pytest.mark.parametrize("head", HEADS)
def test_no_tensor_has_tokens_times_vocabulary_numbers(head: str) -> None:
    layer, hidden, targets, _ = case(head, torch.float32)
    for loss in (
        lambda: token_losses(layer, hidden, targets).sum(),
        lambda: summed_loss(layer, hidden, targets, total),
    ):
        with LargestTensor() as watched:
            loss().backward()
        assert watched.numbers <= max(5 * VOCABULARY, WIDTH * VOCABULARY)
    with LargestTensor() as control:
        plain(layer, hidden, targets).sum().backward()
    assert control.numbers == TOKENS * VOCABULARY


def test_a_plain_linear_layer_is_turned_into_one_with_its_weights() -> None:
    layer, other = nn.Linear(WIDTH, VOCABULARY), Scaled()
    hidden = torch.randn(3, WIDTH)
    wanted = layer(hidden)
    let_score(layer)
    let_score(other)
    assert isinstance(layer, ScoringHead)
    assert type(other) is Scaled
    assert torch.equal(layer(hidden), wanted)


def test_the_loss_of_a_model_goes_through_its_heads_forward(golden_model: Callable[..., Any]) -> None:
    """Where DeepSpeed's hooks are."""
    lm = golden_model("llada").lm
    called = []
    hook = lm.module.network.get_output_embeddings().register_forward_hook(
        lambda module, inputs, output: called.append(output.shape)
    )
    tokens = torch.arange(6)[None]
    scored = torch.tensor([[True, False, True, True, False, True]])
    inputs = ModelInputs(tokens, torch.zeros_like(tokens), tokens)
    lm.module(inputs, tokens, scored, total)
    hook.remove()
    assert called == [()]  # one call, which answers with the loss


@pytest.mark.parametrize(
    ("there", "compilers", "headers", "lacks"),
    [
        (True, {"gcc"}, True, ""),
        (True, {"clang"}, True, ""),
        (False, {"gcc"}, True, "triton, which is not installed"),
        (True, {"g++"}, True, "a C compiler"),
        (True, {"cc"}, False, "Python's headers"),
    ],
)
def test_what_triton_lacks_is_named(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    there: bool,
    compilers: set[str],
    headers: bool,
    lacks: str,
) -> None:
    (tmp_path / "Python.h").write_text("") if headers else None
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(fused_slopes, "find_spec", lambda name: object() if there else None)
    monkeypatch.setattr("shutil.which", lambda name: name if name in compilers else None)
    monkeypatch.setattr(fused_slopes, "get_paths", lambda *_: {"include": str(tmp_path)})
    monkeypatch.setattr(fused_slopes, "get_config_var", lambda _: None)
    found = fused_slopes.lacks_for_triton.__wrapped__()
    assert found.startswith(lacks)
    assert bool(found) is bool(lacks)
