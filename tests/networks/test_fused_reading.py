"""The fused layers compute what the stock ones do, on the same weights."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from opendllm.core import load
from opendllm.core.language_model import LanguageModel
from opendllm.core.networks.canvas_cache import CanvasCache
from opendllm.core.networks.canvas_reader import network_states
from opendllm.core.networks.fused_reading import FusedNetwork, can_be_fused
from opendllm.registries.backbones import RefreshSpan, TokenPositions
from opendllm.registries.sequences import PADDING_SEGMENT, ModelInputs

M = 150
L = 20
FAMILIES = ("open-dcoder", "llada", "dream", "sdar", "fast-dllm-v2")


@pytest.fixture(params=FAMILIES)
def model(request: pytest.FixtureRequest, goldens: Path) -> LanguageModel:
    return load(goldens / request.param, mask_token_id=M, device="cpu", dtype=torch.float32)


@pytest.fixture(autouse=True)
def _without_gradients() -> Iterator[None]:
    torch.manual_seed(0)
    with torch.no_grad():
        yield


def drawn(*size: int) -> tuple[Tensor, Tensor]:
    return torch.randint(0, 140, size), torch.arange(size[-1]).expand(size).contiguous()


def close(one: Tensor, other: Tensor) -> bool:
    return bool((one - other).abs().max() < 1e-5)


def test_states_with_and_without_kept_keys(model: LanguageModel) -> None:
    network = model.lm.network
    tokens, positions = drawn(3, L)
    visible = (torch.rand(3, L, L) > 0.3) | torch.eye(L, dtype=torch.bool)
    stock = network_states(network, tokens, positions, visible, None)
    caches = (CanvasCache(3, L), CanvasCache(3, L))
    network_states(network, tokens, positions, None, caches[0])
    fused = FusedNetwork(network).reads(compiled=False)
    assert close(fused(network, tokens, positions, visible, None), stock)
    fused(network, tokens, positions, None, caches[1])
    some = torch.rand(2, 4, 12) > 0.2
    some[:, :, 0] = True
    for cache in caches:
        cache.rows, cache.seen = torch.tensor([2, 0]), 12
        cache.columns = torch.tensor([[3, 4, 5, L], [6, 7, 8, 9]])
    inputs = (network, tokens[:2, :4], positions[:2, :4], some)
    assert close(fused(*inputs, caches[1]), network_states(*inputs, caches[0]))
    for ours, theirs in zip(
        caches[1].keys + caches[1].values, caches[0].keys + caches[0].values, strict=True
    ):
        assert close(ours, theirs)


def test_the_network_goes_on_with_the_joined_weights(model: LanguageModel, tmp_path: Path) -> None:
    """Its values stay, and a change of them is seen by both."""
    network = model.lm.network
    before = {name: value.clone() for name, value in network.state_dict().items()}
    joined = FusedNetwork(network)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert joined.is_of(network)
    model.lm.save(tmp_path, model.lm.module.state_dict())
    again = load(tmp_path, mask_token_id=M, device="cpu").lm.network.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in again.items())
    for parameter in network.parameters():
        parameter.mul_(1.1)  # as an optimizer does
    tokens, positions = drawn(2, L)
    inputs = (network, tokens, positions, None, None)
    assert close(joined.reads(compiled=False)(*inputs), network_states(*inputs))


@pytest.mark.parametrize("part", ["q_proj.weight", "o_proj.weight", "up_proj.weight", "input_layernorm"])
def test_weights_that_have_moved_are_joined_anew(part: str, goldens: Path) -> None:
    """An average of the weights that takes their place, say: nothing of the old ones is read."""
    model = load(goldens / "dream", mask_token_id=M, device="cpu", dtype=torch.float32)
    joined = FusedNetwork(model.lm.network)
    for name, parameter in model.lm.network.named_parameters():
        if part in name:
            parameter.data = parameter * 1.5
    inputs = (model.lm.network, *drawn(2, L), None, None)
    if joined.is_of(model.lm.network):  # then it reads the new ones, too
        assert close(joined.reads(compiled=False)(*inputs), network_states(*inputs))
    else:
        assert close(FusedNetwork(model.lm.network).reads(compiled=False)(*inputs), network_states(*inputs))


def test_others_weights_are_left_alone(goldens: Path) -> None:
    """In training, in an engine's own memory, with adapters or another attention: the stock classes read."""
    network: Any = load(goldens / "llada", mask_token_id=M, device="cpu").lm.network
    assert can_be_fused(network)
    hook = network.model.layers[1].self_attn.q_proj.register_forward_hook(lambda _m, _i, output: output * 2)
    assert not can_be_fused(network)
    hook.remove()
    norm = network.model.layers[0].input_layernorm
    norm.variance_epsilon *= 100
    assert not can_be_fused(network)
    norm.variance_epsilon = network.config.rms_norm_eps
    assert can_be_fused(network)
    network.train()
    assert not can_be_fused(network)
    network.eval()
    flat = torch.cat([parameter.flatten() for parameter in network.parameters()])
    at = 0
    for parameter in network.parameters():
        parameter.data, at = flat[at : at + parameter.numel()].view_as(parameter), at + parameter.numel()
    assert not can_be_fused(network)
    for family in ("llada2", "llada-moe"):
        length = 8 if family == "llada2" else None
        mixture = load(goldens / family, mask_token_id=M, device="cpu", block_length=length).lm.network
        assert not can_be_fused(mixture)


def test_what_cannot_be_fused_any_more_lets_its_joined_weights_go(goldens: Path) -> None:
    lm = load(goldens / "llada", mask_token_id=M, device="cpu").lm
    inputs = ModelInputs(torch.full((1, L), 5), torch.zeros(1, L, dtype=torch.int64), torch.arange(L)[None])
    lm.reader(inputs, compiled=True)
    joined = weakref.ref(vars(lm)["_fused"])
    lm.network.lm_head.register_forward_hook(lambda *_: None)
    lm.reader(inputs, compiled=True)
    assert joined() is None


def test_a_row_s_keys_are_forgotten_with_it(goldens: Path) -> None:
    """A NaN in them would outlive every mask: its weight is 0, and 0 times NaN is NaN."""
    lm = load(goldens / "llada", mask_token_id=M, device="cpu").lm
    segments = torch.zeros(2, L, dtype=torch.int64)
    inputs = ModelInputs(torch.full((2, L), 5), segments, torch.arange(L).repeat(2, 1))
    reader = lm.reader(inputs, use_kv_cache=True)
    at = TokenPositions(torch.tensor([0, 1]), torch.tensor([0, 0]))
    reader.states(inputs.tokens, at)
    cache = vars(reader)["_cache"]
    for store in (*cache.keys, *cache.values):
        store[1] = torch.nan
    shorter = torch.tensor([[0] * (L - 2) + [PADDING_SEGMENT] * 2])
    assert reader.replace_rows(
        torch.tensor([1]), ModelInputs(inputs.tokens[:1], shorter, inputs.positions[:1])
    )
    zeros, last = torch.zeros(2, dtype=torch.int64), torch.full((2,), 2)
    states = reader.states(inputs.tokens, at, RefreshSpan(None, zeros, last, 3))
    assert states.isfinite().all()
