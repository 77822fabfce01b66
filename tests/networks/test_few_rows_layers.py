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
from torch.nn.functional import rms_norm, scaled_dot_product_attention, silu

from opendllm.core.networks import few_rows_layers, few_rows_pass
from opendllm.core.networks.few_rows_case import SmallCase, small_case
from opendllm.core.networks.few_rows_layers import TOLERANCE, FewRowsLayers, Kind, largest_mistake
from opendllm.core.networks.fused_layer import Heads

no_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="kernels of a GPU, and none is here")
HEADS = Heads(4, 2, 64, 0.125, 1e-6, 132)
CPU = torch.device("cpu")
KINDS = [Kind(64, 7, True, False, False), Kind(128, 1, False, False, True), Kind(128, 4, False, True, True)]
"""Qwen2's, LLaDA's, Qwen3's."""
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
    states, squares, matrix, bias, query_norm, key_norm = given[:6]
    cos, sin, positions, query, keys, values, numbers, columns = given[8:16]
    epsilon, heads, key_heads, at_once = given[20], given[22], given[23], given[25]
    biased, has_norms, width = given[26], given[27], given[29]
    found = normed(states, squares, epsilon) @ matrix.float().T
    found = (found + bias.float() if biased else found).unflatten(1, (-1, width))
    turned, value = found[:, : heads + key_heads], found[:, heads + key_heads :]
    if has_norms:
        query_part, key_part = turned[:, :heads], turned[:, heads:]
        query_part = rms_norm(query_part, (width,), query_norm.float(), epsilon)
        turned = torch.cat([query_part, rms_norm(key_part, (width,), key_norm.float(), epsilon)], 1)
    low, high = turned.chunk(2, -1)
    angle = positions.flatten()
    turned = turned * cos[angle].float()[:, None] + torch.cat([-high, low], -1) * sin[angle].float()[:, None]
    query.copy_(turned[:, :heads].flatten(1))
    row = numbers.repeat_interleave(at_once)
    keys[row, :, columns.flatten()] = turned[:, heads:].to(keys.dtype)
    values[row, :, columns.flatten()] = value.to(keys.dtype)


def attend(*given: Any) -> None:
    query, keys, values, numbers, visible = given[:5]
    out, scale, at_once, seen, masked = given[8], given[9], given[12], given[14], given[20]
    rows, width = len(numbers), keys.shape[-1]
    queries = query.view(rows, at_once, -1, width).transpose(1, 2).float()
    mask = visible[:, None].bool() if masked else None
    key, value = (each[numbers, :, :seen].float() for each in (keys, values))
    found = scaled_dot_product_attention(
        queries, key, value, mask, scale=scale / few_rows_pass.LOG2_E, enable_gqa=True
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


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.usefixtures("kernels")
def test_the_kernels_make_the_layers(kind: Kind) -> None:
    assert largest_mistake(CPU, kind, 132) < TOLERANCE / 2


def test_a_wrong_kernel_is_found_out(kernels: SimpleNamespace) -> None:
    def attends_to_all(*given: Any) -> None:
        attend(*given[:20], False, *given[21:])

    def forgets_biases(*given: Any) -> None:
        add_product(*given[:14], False, *given[15:])

    def forgets_norms(*given: Any) -> None:
        query_key_value(*given[:27], False, *given[28:])

    def turns_nothing(*given: Any) -> None:
        query_key_value(*given[:8], torch.ones_like(given[8]), torch.zeros_like(given[9]), *given[10:])

    def without_numbers(*given: Any) -> None:
        gated_product(*given)
        given[6].fill_(torch.nan)

    for wrong, name in (
        (attends_to_all, "attend"),
        (forgets_biases, "add_product"),
        (forgets_norms, "query_key_value"),
        (turns_nothing, "query_key_value"),
        (without_numbers, "gated_product"),
    ):
        right = getattr(kernels, name)
        setattr(kernels, name, Launched(wrong))
        assert not largest_mistake(CPU, Kind(64, 2, True, True, False), 132) <= TOLERANCE
        setattr(kernels, name, right)


def case(**changed: Any) -> tuple[FewRowsLayers, SmallCase]:
    few = small_case(HEADS, biased=True).on(CPU, torch.bfloat16)
    layers = [layer._replace(**changed) for layer in few.layers]
    return FewRowsLayers(layers, HEADS, few.rotary), few


def test_what_the_kernels_are_not_for() -> None:
    layers, few = case()
    given = (few.hidden, few.cache)
    assert layers.takes(*given)
    assert not layers.takes(few.hidden.float(), few.cache)
    assert not layers.takes(few.hidden.half(), few.cache)
    assert not layers.takes(few.hidden.repeat(2, 1, 1), few.cache)
    assert not layers.takes(few.hidden, None)
    of_heads = torch.ones(64, dtype=torch.bfloat16)
    assert case(query_norm=of_heads, key_norm=of_heads)[0].takes(*given)
    assert not case(query_norm=of_heads)[0].takes(*given)
    assert not case(down=few.layers[0].down[:, :-1].contiguous())[0].takes(*given)
    assert not case(output=few.layers[0].output.float())[0].takes(*given)
    few.cache.columns = None
    assert not layers.takes(*given)


def test_nothing_serves_without_a_gpu() -> None:
    assert not few_rows_layers.layers_serve(CPU, KINDS[0])


@pytest.mark.gpu
@no_gpu
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize(
    ("heads", "normed", "width", "inner"),
    [
        (Heads(16, 16, 128, 128**-0.5, 1e-5, 132), False, 2304, 512),
        (Heads(16, 4, 128, 128**-0.5, 1e-6, 132), True, 2304, 512),
        (Heads(14, 2, 64, 0.125, 1e-6, 132), False, 896, 2432),
    ],
    ids=["as LLaDA's", "as Qwen3's", "as Qwen2's"],
)
def test_layers_on_a_gpu(heads: Heads, normed: bool, width: int, inner: int, rows: int, masked: bool) -> None:
    whole = small_case(heads, width == 896, normed, width, inner, rows)
    device, found = torch.device("cuda", 0), []
    with torch.no_grad():
        for _ in range(2):
            few = whole.on(device, torch.bfloat16)
            layers = FewRowsLayers(few.layers, heads, few.rotary)
            assert layers.kind.narrow == (width == 2304)
            assert few_rows_layers.layers_serve(device, layers.kind)
            assert layers.takes(few.hidden, few.cache)
            visible = few.visible if masked else few.visible[:, :1]
            found.append(layers.states(few.hidden, few.positions, visible, few.cache))
        plain = whole.on(device, torch.float32)
        wanted = plain._replace(visible=plain.visible if masked else plain.visible[:, :1]).states(heads)
    assert torch.equal(*found)  # parts are added up in one order
    assert float((found[0].float() - wanted).abs().max() / wanted.abs().max()) < TOLERANCE
