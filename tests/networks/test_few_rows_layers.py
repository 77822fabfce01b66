"""Layers of few rows by five kernels: what they are handed, what they are not for, that errors are found.

On a CPU torch's arithmetic stands behind the kernels' names, with their arguments in their order.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention, silu

from opendllm.core.networks import few_rows_layers
from opendllm.core.networks.few_rows_case import SmallCase, small_case
from opendllm.core.networks.few_rows_layers import TOLERANCE, FewRowsLayers, largest_mistake
from opendllm.core.networks.fused_layer import Heads

no_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="kernels of a GPU, and none is here")
HEADS = Heads(4, 2, 64, 0.125, 1e-6, 132)
CPU = torch.device("cpu")
Kernel = Callable[..., None]


def normed(states: Tensor, squares: Tensor, epsilon: float) -> Tensor:
    mean = squares.sum(0)[: len(states), None] / states.shape[1]
    return states.float() * (mean + epsilon).rsqrt()


def write_weighted(hidden: Tensor, weight: Tensor, weighted: Tensor, squares: Tensor) -> None:
    weighted.copy_(hidden.float() * weight.float())
    squares.zero_()
    squares[:, : len(hidden)] = hidden.float().square().unflatten(1, (len(squares), -1)).sum(-1).T


def weigh(hidden: Tensor, weight: Tensor, weighted: Tensor, squares: Tensor, *_: Any) -> None:
    write_weighted(hidden, weight, weighted, squares)


def query_key_value(*given: Any) -> None:
    states, squares, matrix, bias, _, _, cos, sin, positions, query, keys, values, numbers, columns = given[
        :14
    ]
    epsilon, heads, key_heads, at_once = given[18], given[20], given[21], given[23]
    biased, width = given[24], given[26]
    found = normed(states, squares, epsilon) @ matrix.float().T
    found = (found + bias.float() if biased else found).unflatten(1, (-1, width))
    turned, value = found[:, : heads + key_heads], found[:, heads + key_heads :]
    low, high = turned.chunk(2, -1)
    angle = positions.flatten()
    turned = turned * cos[angle].float()[:, None] + torch.cat([-high, low], -1) * sin[angle].float()[:, None]
    query.copy_(turned[:, :heads].flatten(1))
    row = numbers.repeat_interleave(at_once)
    keys[row, :, columns.flatten()] = turned[:, heads:].to(keys.dtype)
    values[row, :, columns.flatten()] = value.to(keys.dtype)


def attend(*given: Any) -> None:
    query, keys, values, numbers, visible = given[:5]
    out, scale, at_once, seen, masked = given[8], given[9], given[12], given[14], given[19]
    rows, width = len(numbers), keys.shape[-1]
    queries = query.view(rows, at_once, -1, width).transpose(1, 2).float()
    mask = visible[:, None, None, :].bool() if masked else None
    key, value = (each[numbers, :, :seen].float() for each in (keys, values))
    found = scaled_dot_product_attention(
        queries, key, value, mask, scale=scale / few_rows_layers.LOG2_E, enable_gqa=True
    )
    out.copy_(found.transpose(1, 2).reshape(out.shape))


def add_product(*given: Any) -> None:
    states, matrix, bias, _, _, hidden, weight, weighted, squares = given[:9]
    found = states.float() @ matrix.float().T + (bias.float() if given[14] else 0)
    hidden.copy_(hidden.float() + found)
    write_weighted(hidden, weight, weighted, squares)


def gated_product(*given: Any) -> None:
    states, squares, matrix, bias, _, _, out = given[:7]
    found = normed(states, squares, given[12]) @ matrix.float().T + (bias.float() if given[14] else 0)
    gate, rise = found.chunk(2, -1)
    out.copy_(silu(gate) * rise)


class Launched:
    """A kernel that is called with a grid in brackets."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel

    def __getitem__(self, _grid: tuple[int, ...]) -> Kernel:
        def call(*given: Any, **_options: int) -> None:
            self.kernel(*given)

        return call


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The kernels' names, with torch's arithmetic behind them."""
    import opendllm.core.networks as package

    own = (weigh, query_key_value, attend, add_product, gated_product)
    module = SimpleNamespace(**{each.__name__: Launched(each) for each in own})
    name = "few_rows_layer_kernels"
    monkeypatch.setitem(sys.modules, f"opendllm.core.networks.{name}", module)
    monkeypatch.setattr(package, name, module, raising=False)
    return module


def test_the_kernels_make_the_layers(kernels: SimpleNamespace) -> None:
    assert largest_mistake(CPU, 132) < TOLERANCE / 2
    assert largest_mistake(CPU, 1) < TOLERANCE / 2


def test_a_wrong_kernel_is_found_out(kernels: SimpleNamespace) -> None:
    def attends_to_all(*given: Any) -> None:
        attend(*given[:19], False, *given[20:])

    def forgets_biases(*given: Any) -> None:
        add_product(*given[:14], False, *given[15:])

    def turns_nothing(*given: Any) -> None:
        query_key_value(*given[:6], torch.ones_like(given[6]), torch.zeros_like(given[7]), *given[8:])

    def without_numbers(*given: Any) -> None:
        gated_product(*given)
        given[6].fill_(torch.nan)

    for wrong, name in (
        (attends_to_all, "attend"),
        (forgets_biases, "add_product"),
        (turns_nothing, "query_key_value"),
        (without_numbers, "gated_product"),
    ):
        right = getattr(kernels, name)
        setattr(kernels, name, Launched(wrong))
        assert not largest_mistake(CPU, 132) <= TOLERANCE
        setattr(kernels, name, right)


def case(**changed: Any) -> tuple[FewRowsLayers, SmallCase]:
    few = small_case(HEADS, biased=True).on(CPU, torch.bfloat16)
    layers = [layer._replace(**changed) for layer in few.layers]
    return FewRowsLayers(layers, HEADS, few.rotary), few


def test_what_the_kernels_are_not_for() -> None:
    layers, few = case()
    given = (few.hidden, few.visible, few.cache)
    assert layers.takes(*given)
    assert not layers.takes(few.hidden.float(), few.visible, few.cache)
    assert not layers.takes(few.hidden.half(), few.visible, few.cache)
    assert not layers.takes(few.hidden.repeat(8, 1, 1), few.visible, few.cache)
    assert not layers.takes(few.hidden, torch.ones(2, 9, 290, dtype=torch.bool), few.cache)
    assert not layers.takes(few.hidden, few.visible, None)
    of_heads = torch.ones(64, dtype=torch.bfloat16)
    assert not case(query_norm=of_heads, key_norm=of_heads)[0].takes(*given)
    assert not case(down=few.layers[0].down[:, :-1].contiguous())[0].takes(*given)
    assert not case(output=few.layers[0].output.float())[0].takes(*given)
    few.cache.columns = None
    assert not layers.takes(*given)


def test_nothing_serves_without_a_gpu() -> None:
    assert not few_rows_layers.layers_serve(CPU, torch.bfloat16)


@pytest.mark.gpu
@no_gpu
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(
    ("heads", "width", "inner"),
    [
        (Heads(32, 32, 128, 128**-0.5, 1e-5, 132), 4096, 1024),
        (Heads(14, 2, 64, 0.125, 1e-6, 132), 896, 4864),
        (Heads(4, 4, 64, 0.1, 1e-6, 3), 256, 384),
    ],
    ids=["8b", "0.5b", "few programs"],
)
def test_layers_on_a_gpu(heads: Heads, width: int, inner: int, biased: bool) -> None:
    whole = small_case(heads, biased, width, inner)
    device, found = torch.device("cuda", 0), []
    with torch.no_grad():
        for _ in range(2):
            few = whole.on(device, torch.bfloat16)
            layers = FewRowsLayers(few.layers, heads, few.rotary)
            assert layers.takes(few.hidden, few.visible, few.cache)
            found.append(layers.states(few.hidden, few.positions, few.visible, few.cache))
        plain = whole.on(device, torch.float32)
        wanted = plain.states(heads._replace(multiprocessors=0))
    assert torch.equal(*found)  # parts are added up in one order
    assert float((found[0].float() - wanted).abs().max() / wanted.abs().max()) < TOLERANCE
