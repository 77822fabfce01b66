"""A canvas read by Llama's, Qwen2's or Qwen3's layers in few, large operations.

Where a pass over a few columns waits for memory. A layer is a function of tensors alone, which is compiled
once for all layers; or five kernels, see `few_rows_layers`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm
from transformers import PreTrainedModel

from opendllm.core.networks.attention import ATTENTION_NAME
from opendllm.core.networks.canvas_cache import CanvasCache
from opendllm.core.networks.few_rows_layers import FewRowsLayers, layers_serve, multiprocessors_of
from opendllm.core.networks.fused_layer import Heads, Kept, LayerWeights, layer_states

_STOCK = ("LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")


class _Way(NamedTuple):
    """How the layers are read.

    Attributes:
        layer: `layer_states`, as it is or compiled.
        heads: what it has to know besides.
        few_columns: for passes over a few columns; None where they are read as the others.
    """

    layer: Callable[..., tuple[Tensor, Tensor]]
    heads: Heads
    few_columns: FewRowsLayers | None


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
            return functools.partial(self._states, _Way(layer_states, self._heads, None))
        # Kernels of their own pay where nobody launches them one by one.
        layer = torch.compile(layer_states, dynamic=False)
        way = _Way(layer, self._heads, self._few_columns())
        return functools.partial(self._states, way)

    def _states(
        self,
        way: _Way,
        _network: PreTrainedModel,
        tokens: Tensor,
        positions: Tensor,
        visible: Tensor | None,
        cache: CanvasCache | None,
    ) -> Tensor:
        hidden = self._decoder.embed_tokens(tokens)
        norm, heads = self._decoder.norm, way.heads
        if cache is not None:
            cache.make_room(len(self._layers), hidden, (heads.keys, heads.width))
            if way.few_columns is not None and way.few_columns.takes(hidden, cache):
                hidden = way.few_columns.states(hidden, positions, visible, cache)
                return rms_norm(hidden, norm.weight.shape, norm.weight, heads.epsilon)
        cos, sin = self._rotary(hidden, positions)
        angles = (cos[:, :, None], sin[:, :, None])
        added = torch.zeros_like(hidden)
        for number, weights in enumerate(self._layers):
            kept = None
            if cache is not None:
                kept = Kept(cache.keys[number], cache.values[number], cache.rows, cache.columns, cache.seen)
            hidden, added = way.layer(hidden, added, weights, heads, angles, visible, kept)
        return rms_norm(hidden + added, norm.weight.shape, norm.weight, heads.epsilon)

    def _few_columns(self) -> FewRowsLayers | None:
        joined = self._layers[0].query_key_value
        count = multiprocessors_of(joined.device)
        if not count or joined.dtype != torch.bfloat16 or not _turns_alike(self._decoder):
            return None
        found = FewRowsLayers(self._layers, self._heads._replace(multiprocessors=count), self._rotary)
        return found if layers_serve(joined.device, found.kind) else None

    def _rotary(self, like: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        cos, sin = self._decoder.rotary_emb(like, positions)
        return cos, sin


def _turns_alike(decoder: Any) -> bool:
    """Whether a position's angles don't hang on what other positions there are."""
    return getattr(decoder.rotary_emb, "rope_type", None) in ("default", "linear", "llama3", "yarn")


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
