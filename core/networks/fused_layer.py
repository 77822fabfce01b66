"""One layer of Llama's, Qwen2's or Qwen3's as a function of tensors alone.

The stock classes' arithmetic, in few, large operations: query, key and value are one product, so are the
feed-forward's gate and rise.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear, rms_norm, silu

from opendllm.core.networks.attention import dense_attention
from opendllm.core.networks.canvas_cache import write_entries


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
        multiprocessors: see `few_rows_layers.multiprocessors_of`.
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
    rows, columns, _ = hidden.shape
    turned = heads.queries + heads.keys
    hidden = hidden + added
    states = rms_norm(hidden, hidden.shape[-1:], weights.input_norm, heads.epsilon)
    states = linear(states, weights.query_key_value, weights.query_key_value_bias)
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
    attended = dense_attention(query, key, value, visible, heads.scale, 0.0).flatten(2)
    hidden = hidden + linear(attended, weights.output, weights.output_bias)
    states = rms_norm(hidden, hidden.shape[-1:], weights.feed_forward_norm, heads.epsilon)
    gate, rise = linear(states, weights.gate_rise, weights.gate_rise_bias).chunk(2, dim=-1)
    return hidden, linear(silu(gate) * rise, weights.down, weights.down_bias)


def _turned(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding (arXiv:2104.09864) of [R, Q, N, K], in the order of operations of transformers."""
    first, second = states.chunk(2, dim=-1)
    return states * cos + torch.cat([-second, first], dim=-1) * sin
