"""Products and attention of few rows: what comes of a kernel's parts is what torch computes in one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear, scaled_dot_product_attention

from opendllm.core.networks import few_rows

no_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="kernels of a GPU, and none is here")
MULTIPROCESSORS = 132


def product_parts(rows: Tensor, matrix: Tensor, parts: int) -> Tensor:
    pieces = zip(rows.float().chunk(parts, -1), matrix.float().chunk(parts, -1), strict=True)
    found = torch.stack([piece @ share.T for piece, share in pieces])
    return found.to(rows.dtype) if len(found) == 1 else found


def attention_parts(
    query: Tensor, key: Tensor, value: Tensor, visible: Tensor | None, scale: float, parts: int
) -> tuple[Tensor, Tensor]:
    groups = query.shape[1] // key.shape[1]
    states, powers = [], []
    for columns in torch.arange(key.shape[2]).chunk(parts):
        keys, values = (each.float()[:, :, columns].repeat_interleave(groups, 1) for each in (key, value))
        scores = query.float() @ keys.transpose(2, 3) * scale
        if visible is not None:
            scores = scores.masked_fill(~visible[:, None, None, columns], -torch.inf)
        states.append((scores.softmax(-1).nan_to_num() @ values).transpose(1, 2))
        powers.append(scores.logsumexp(-1).transpose(1, 2) / torch.log(torch.tensor(2.0)))
    return torch.stack(states), torch.stack(powers)


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Callable[..., object]], None]:
    """The kernels' names, with torch's arithmetic behind them; gives what puts another behind one."""

    class Namespace:
        product_of_few_rows = staticmethod(product_parts)
        attention_of_few_queries = staticmethod(attention_parts)

    monkeypatch.setattr(torch.ops, "opendllm", Namespace, raising=False)
    return lambda name, function: monkeypatch.setattr(Namespace, name, staticmethod(function))


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def off(found: Tensor, wanted: Tensor) -> float:
    return float((found.float() - wanted).abs().max() / wanted.abs().max())


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("outputs", [96, 64 * 140], ids=["in parts", "in one"])
@pytest.mark.parametrize("with_bias", [False, True])
def test_parts_of_a_product_are_the_product(outputs: int, with_bias: bool) -> None:
    rows, weight = drawn(2, 9, 384), drawn(outputs, 384, seed=1)
    bias = drawn(outputs, seed=2) if with_bias else None
    found = few_rows.product(rows, weight, bias, MULTIPROCESSORS)
    wanted = linear(rows.float(), weight.float(), None if bias is None else bias.float())
    assert found.dtype == rows.dtype
    assert off(found, wanted) < 1e-2


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("key_heads", [1, 4])
@pytest.mark.parametrize("masked", [False, True])
def test_parts_of_keys_make_the_attention(key_heads: int, masked: bool) -> None:
    query, key, value = drawn(2, 4, 5, 16), drawn(2, key_heads, 500, 16), drawn(2, key_heads, 500, 16, seed=1)
    # Of one row all of the first part is hidden.
    visible = torch.arange(500)[None, None] >= torch.tensor([0, 300])[:, None, None] if masked else None
    found = few_rows.attention(query, key, value, visible, 0.3, MULTIPROCESSORS)
    mask = None if visible is None else visible[:, None]
    wanted = scaled_dot_product_attention(
        query.float(), key.float(), value.float(), mask, scale=0.3, enable_gqa=True
    )
    assert off(found, wanted.transpose(1, 2)) < 2e-2


def test_what_no_kernel_is_for_is_torch_s_to_the_last_bit() -> None:
    # No kernel is there at all: each of these would fail if it asked for one.
    exact = drawn(9, 384).float(), drawn(96, 384).float()
    assert torch.equal(few_rows.product(*exact, None, MULTIPROCESSORS), linear(*exact))
    many = drawn(few_rows.MOST_ROWS + 1, 384), drawn(96, 384)
    assert torch.equal(few_rows.product(*many, None, MULTIPROCESSORS), linear(*many))
    odd = drawn(9, 100), drawn(96, 100)
    assert torch.equal(few_rows.product(*odd, None, MULTIPROCESSORS), linear(*odd))
    right = drawn(9, 384), drawn(96, 384)
    assert torch.equal(few_rows.product(*right, None, 0), linear(*right))
    assert few_rows.multiprocessors_for(torch.device("cpu"), torch.bfloat16) == 0


def test_a_wrong_kernel_is_found_out(
    kernels: Callable[[str, Callable[..., object]], None],
) -> None:
    def mistake() -> float:
        return few_rows._largest_mistake(torch.device("cpu"), torch.bfloat16, MULTIPROCESSORS)

    assert mistake() < few_rows.TOLERANCE
    kernels("product_of_few_rows", lambda *given: product_parts(*given) * 1.05)
    assert mistake() > few_rows.TOLERANCE
    kernels("product_of_few_rows", lambda *given: product_parts(*given) * torch.nan)
    assert not mistake() <= few_rows.TOLERANCE
    kernels("product_of_few_rows", product_parts)
    kernels("attention_of_few_queries", lambda q, k, v, _, *rest: attention_parts(q, k, v, None, *rest))
    assert mistake() > few_rows.TOLERANCE

    def without_numbers(*given: Any) -> tuple[Tensor, Tensor]:
        states, powers = attention_parts(*given)
        return states * torch.nan, powers

    kernels("attention_of_few_queries", without_numbers)
    assert not mistake() <= few_rows.TOLERANCE


@pytest.mark.gpu
@no_gpu
@pytest.mark.parametrize("rows", [1, 7, 32, 64])
@pytest.mark.parametrize(("outputs", "inputs"), [(96, 384), (1000, 896), (896, 4864), (40000, 256)], ids=str)
def test_a_product_on_a_gpu(rows: int, outputs: int, inputs: int) -> None:
    states, weight = drawn(rows, inputs).cuda(), drawn(outputs, inputs, seed=1).cuda()
    count = few_rows.multiprocessors_for(states.device, states.dtype)
    assert count > 0
    with torch.no_grad():
        found = few_rows.product(states, weight, weight[:, 0], count)
    assert off(found, linear(states.float(), weight.float(), weight[:, 0].float())) < 1e-2


@pytest.mark.gpu
@no_gpu
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    ("heads", "key_heads", "width", "queries", "keys"),
    [(32, 32, 128, 32, 513), (14, 2, 64, 32, 300), (4, 1, 16, 1, 2000), (8, 4, 256, 3, 130)],
    ids=str,
)
def test_attention_on_a_gpu(
    heads: int, key_heads: int, width: int, queries: int, keys: int, masked: bool
) -> None:
    query = drawn(2, queries, heads, width).cuda().transpose(1, 2)
    key, value = (drawn(2, key_heads, keys + 1, width, seed=seed).cuda()[:, :, :keys] for seed in (1, 2))
    visible = torch.arange(keys, device="cuda")[None, None] >= torch.tensor([[[0]], [[129]]]).cuda()
    seen = visible if masked else None
    count = few_rows.multiprocessors_for(query.device, query.dtype)
    with torch.no_grad():
        found = few_rows.attention(query, key, value, seen, 0.1, count)
    wanted = scaled_dot_product_attention(
        query.float(), key.float(), value.float(), seen if seen is None else seen[:, None],
        scale=0.1, enable_gqa=True,
    )  # fmt: skip
    assert off(found, wanted.transpose(1, 2)) < 2e-2
