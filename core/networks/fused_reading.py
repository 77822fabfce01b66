"""A canvas read by Llama's, Qwen2's or Qwen3's layers in few, large operations.

The stock classes' arithmetic, where a pass over a few columns waits for memory: query, key and value are
one product, so are the feed-forward's gate and rise, and a layer is a function of tensors alone, which is
compiled once for all layers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm, silu
from transformers import PreTrainedModel

from opendllm.core.networks import few_rows
from opendllm.core.networks.attention import ATTENTION_NAME
from opendllm.core.networks.canvas_cache import CanvasCache, write_entries
from opendllm.core.networks.few_rows import attention, product

_STOCK = ("LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")


class LayerWeights(NamedTuple):
    """Of one layer; biases and norms of heads are None where the family has none.

    Attributes:
        input_norm: [D].
        query_key_value: [(H + 2 G) K, D], of H query heads and G key heads of width K.
        query_key_value_bias: [(H + 2 G) K].
        query_norm: [K], of each head (Qwen3).
        key_norm: [K].
        output: [D, H K].
        output_bias: [D].
        feed_forward_norm: [D].
        gate_rise: [2 F, D].
        gate_rise_bias: [2 F].
        down: [D, F].
        down_bias: [D].
    """

    input_norm: Tensor
    query_key_value: Tensor
    query_key_value_bias: Tensor | None
    query_norm: Tensor | None
    key_norm: Tensor | None
    output: Tensor
    output_bias: Tensor | None
    feed_forward_norm: Tensor
    gate_rise: Tensor
    gate_rise_bias: Tensor | None
    down: Tensor
    down_bias: Tensor | None


class Heads(NamedTuple):
    """What a layer has to know besides.

    Attributes:
        queries: H.
        keys: G.
        width: K.
        scale: of queries times keys.
        epsilon: of all norms.
        multiprocessors: see `few_rows.multiprocessors_for`.
    """

    queries: int
    keys: int
    width: int
    scale: float
    epsilon: float
    multiprocessors: int


class Kept(NamedTuple):
    """The entries that a layer writes and reads, see `CanvasCache`.

    Attributes:
        keys: [B, G, L + 1, K].
        values: [B, G, L + 1, K].
        rows: [R] int64 or None.
        columns: [R, Q] int64 or None.
        seen: how many columns come back.
    """

    keys: Tensor
    values: Tensor
    rows: Tensor | None
    columns: Tensor | None
    seen: int


class FusedNetwork:
    """The joined matrices of a network, which goes on with views of them."""

    def __init__(self, network: PreTrainedModel) -> None:
        """Join those of a network that `can_be_fused`."""
        decoder: Any = network.get_decoder()
        config = network.config
        attention = decoder.layers[0].self_attn
        self._decoder = decoder
        self._heads = Heads(
            config.num_attention_heads,
            config.num_key_value_heads,
            attention.head_dim,
            attention.scaling,
            config.rms_norm_eps,
            multiprocessors=0,
        )
        self._layers = [_weights_of(layer) for layer in decoder.layers]
        self._joined_at = _places(decoder)

    def is_of(self, network: PreTrainedModel) -> bool:
        """Whether the network's weights still lie where they were joined."""
        return _places(network.get_decoder()) == self._joined_at

    def reads(self, compiled: bool) -> Callable[..., Tensor]:
        """Called as `network_states` is, and does the same.

        Args:
            compiled: whether by a compiled layer.
        """
        if not compiled:
            return functools.partial(self._states, layer_states, self._heads)
        # Kernels of their own pay where nobody launches them one by one.
        joined = self._layers[0].query_key_value
        few = few_rows.multiprocessors_for(joined.device, joined.dtype)
        layer = torch.compile(layer_states, dynamic=False)
        return functools.partial(self._states, layer, self._heads._replace(multiprocessors=few))

    def _states(
        self,
        layer: Callable[..., tuple[Tensor, Tensor]],
        heads: Heads,
        _network: PreTrainedModel,
        tokens: Tensor,
        positions: Tensor,
        visible: Tensor | None,
        cache: CanvasCache | None,
    ) -> Tensor:
        hidden = self._decoder.embed_tokens(tokens)
        cos, sin = self._decoder.rotary_emb(hidden, positions)
        angles = (cos[:, :, None], sin[:, :, None])
        if cache is not None:
            cache.make_room(len(self._layers), hidden, (heads.keys, heads.width))
        added = torch.zeros_like(hidden)
        for number, weights in enumerate(self._layers):
            kept = None
            if cache is not None:
                kept = Kept(cache.keys[number], cache.values[number], cache.rows, cache.columns, cache.seen)
            hidden, added = layer(hidden, added, weights, heads, angles, visible, kept)
        norm = self._decoder.norm
        return rms_norm(hidden + added, norm.weight.shape, norm.weight, heads.epsilon)


def can_be_fused(network: PreTrainedModel) -> bool:
    """Whether a network's layers are the stock ones, and its weights its own, on one device.

    Adapters, packed 8-bit weights, layers spread over devices, hooks, norms with an epsilon of their own, and
    what an engine keeps in memory of its own are read by the stock classes.
    """
    kind = type(network)
    if kind.__name__ not in _STOCK or not kind.__module__.startswith("transformers.models."):
        return False
    decoder: Any = network.get_decoder()
    plain = network.config._attn_implementation == ATTENTION_NAME and network.config.hidden_act == "silu"
    devices = {parameter.device for parameter in network.parameters()}
    modules: list[Any] = list(network.modules())
    norms = [each for each in modules if hasattr(each, "variance_epsilon")]
    return (
        plain
        and not any(each._forward_hooks or each._forward_pre_hooks for each in modules)
        and all(norm.variance_epsilon == network.config.rms_norm_eps for norm in norms)
        and not network.training
        and not hasattr(network, "_hf_hook")
        and len(devices) == 1
        and all(_are_own(group) for layer in decoder.layers for group in _groups(layer))
    )


def layer_states(
    hidden: Tensor,
    added: Tensor,
    weights: LayerWeights,
    heads: Heads,
    angles: tuple[Tensor, Tensor],
    visible: Tensor | None,
    kept: Kept | None,
) -> tuple[Tensor, Tensor]:
    """Two parts [R, Q, D] of the states after one layer, given those of the states before it.

    Their sum is left to the next layer, where it is one operation with the norm that follows.

    Args:
        hidden: one part.
        added: the other.
        weights: the layer's.
        heads: how they are divided.
        angles: cosines and sines [R, Q, 1, K] of the positions.
        visible: see `CanvasLayout`.
        kept: keys and values of the other columns; None where there are none.
    """
    few = heads.multiprocessors
    rows, columns, _ = hidden.shape
    turned = heads.queries + heads.keys
    hidden = hidden + added
    states = rms_norm(hidden, hidden.shape[-1:], weights.input_norm, heads.epsilon)
    states = product(states, weights.query_key_value, weights.query_key_value_bias, few)
    states = states.view(rows, columns, turned + heads.keys, heads.width)
    query_key, value = states[:, :, :turned], states[:, :, turned:]
    if weights.query_norm is not None and weights.key_norm is not None:
        query, key = query_key[:, :, : heads.queries], query_key[:, :, heads.queries :]
        width = (heads.width,)
        query = rms_norm(query, width, weights.query_norm, heads.epsilon)
        query_key = torch.cat([query, rms_norm(key, width, weights.key_norm, heads.epsilon)], dim=2)
    query_key = _turned(query_key, *angles).transpose(1, 2)
    query, key, value = query_key[:, : heads.queries], query_key[:, heads.queries :], value.transpose(1, 2)
    if kept is not None:
        key = write_entries(kept.keys, key, kept.rows, kept.columns, kept.seen)
        value = write_entries(kept.values, value, kept.rows, kept.columns, kept.seen)
    attended = attention(query, key, value, visible, heads.scale, few).flatten(2)
    hidden = hidden + product(attended, weights.output, weights.output_bias, few)
    states = rms_norm(hidden, hidden.shape[-1:], weights.feed_forward_norm, heads.epsilon)
    gate, rise = product(states, weights.gate_rise, weights.gate_rise_bias, few).chunk(2, dim=-1)
    return hidden, product(silu(gate) * rise, weights.down, weights.down_bias, few)


def _turned(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding (arXiv:2104.09864) of [R, Q, N, K], in the order of operations of transformers."""
    first, second = states.chunk(2, dim=-1)
    return states * cos + torch.cat([-second, first], dim=-1) * sin


def _groups(layer: Any) -> tuple[list[Any], ...]:
    """The linear layers that are one product, by what they read."""
    attention, feed_forward = layer.self_attn, layer.mlp
    return (
        [attention.q_proj, attention.k_proj, attention.v_proj],
        [attention.o_proj],
        [feed_forward.gate_proj, feed_forward.up_proj],
        [feed_forward.down_proj],
    )


def _are_own(linears: Sequence[Any]) -> bool:
    """Plain layers whose weights have memory of their own, or have been joined here."""
    if any(type(each) is not nn.Linear or hasattr(each, "_hf_hook") for each in linears):
        return False
    size = sum(each.weight.nbytes for each in linears)
    stores = {each.weight.untyped_storage().data_ptr(): each.weight.untyped_storage() for each in linears}
    contiguous = all(each.weight.is_contiguous() and each.weight.is_floating_point() for each in linears)
    alike = len({each.bias is None for each in linears}) == 1
    return contiguous and alike and size > 0 and sum(store.nbytes() for store in stores.values()) == size


def _weights_of(layer: Any) -> LayerWeights:
    attention_in, [attention_out], feed_forward_in, [feed_forward_out] = _groups(layer)
    query_norm = getattr(layer.self_attn, "q_norm", None)
    key_norm = getattr(layer.self_attn, "k_norm", None)
    return LayerWeights(
        layer.input_layernorm.weight,
        *_joined(attention_in),
        None if query_norm is None else query_norm.weight,
        None if key_norm is None else key_norm.weight,
        attention_out.weight,
        attention_out.bias,
        layer.post_attention_layernorm.weight,
        *_joined(feed_forward_in),
        feed_forward_out.weight,
        feed_forward_out.bias,
    )


def _places(decoder: Any) -> list[int]:
    return [parameter.data_ptr() for parameter in decoder.layers.parameters()]


@torch.no_grad()
def _joined(linears: Sequence[Any]) -> tuple[Tensor, Tensor | None]:
    """(weight, bias) of several layers' outputs side by side; theirs are parts of it from now on."""
    sizes = [len(each.weight) for each in linears]
    weight = torch.cat([each.weight for each in linears])
    for each, part in zip(linears, weight.split(sizes), strict=True):
        each.weight.data = part
    if linears[0].bias is None:
        return weight, None
    bias = torch.cat([each.bias for each in linears])
    for each, part in zip(linears, bias.split(sizes), strict=True):
        each.bias.data = part
    return weight, bias
