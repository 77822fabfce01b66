"""The layers of a pass over a few columns by five kernels each, see `few_rows_layer_kernels`.

What `layer_states` gives, in bfloat16 on a GPU: float32 stays what it is to the last bit, and the products of
float16 with a norm's weight could be too large for it. They have to compute a small case right before they
are used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from opendllm.core.foundation.notices import warn_once
from opendllm.core.networks.canvas_cache import CanvasCache
from opendllm.core.networks.few_rows import DEPTH, MOST_PARTS, MOST_ROWS, TILE, multiprocessors_for
from opendllm.core.networks.few_rows_case import small_case
from opendllm.core.networks.fused_layer import Heads, LayerWeights

Rotary = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
HALF = TILE // 2
KEYS_AT_ONCE, KEYS_OF_PART = 64, 128
LOG2_E = 1.4426950408889634
TOLERANCE = 3e-2
"""Of two layers in bfloat16 beside float32, relative to the largest number."""


class Split(NamedTuple):
    """How a product is divided among programs.

    Attributes:
        tiles: of its outputs.
        parts: of what is summed over.
        depth: of a part.
    """

    tiles: int
    parts: int
    depth: int


class FewRowsLayers:
    """A network's layers, for passes that it `takes`. One at a time: they share counters."""

    def __init__(self, layers: Sequence[LayerWeights], heads: Heads, rotary: Rotary) -> None:
        """Take them in.

        Args:
            layers: of a network.
            heads: of each; `multiprocessors` is not 0.
            rotary: gives cosines and sines [1, P, K] like a tensor at positions [1, P].
        """
        first = layers[0]
        self._layers = layers
        self._heads = heads
        self._width = first.output.shape[0]
        self._inner = first.down.shape[1]
        self._fits = all(map(self._can_read, layers))
        self._rotary = rotary
        # At one place for good, since graphs read them: of each length of a canvas, and number of rows.
        self._angles: dict[int, tuple[Tensor, Tensor]] = {}
        self._numbers: dict[int, Tensor] = {}
        self._counters: Tensor | None = None

    def takes(self, hidden: Tensor, visible: Tensor | None, cache: CanvasCache | None) -> bool:
        """Whether the kernels are for this pass: over a few kept columns, whose queries see alike.

        Args:
            hidden: [R, Q, D].
            visible: see `CanvasLayout`.
            cache: keys and values.
        """
        return (
            self._fits
            and hidden.dtype == torch.bfloat16
            and 0 < hidden.shape[0] * hidden.shape[1] <= MOST_ROWS
            and (visible is None or visible.shape[1] == 1)
            and cache is not None
            and cache.columns is not None
        )

    def states(self, hidden: Tensor, positions: Tensor, visible: Tensor | None, cache: CanvasCache) -> Tensor:
        """[R, Q, D] after all layers, before the last norm; `hidden` is written over.

        Args:
            hidden: [R, Q, D] of the embedding.
            positions: [R, Q] int64, each less than the canvas's length.
            visible: see `CanvasLayout`.
            cache: with room for all layers.
        """
        from opendllm.core.networks import few_rows_layer_kernels as kernels

        rows, at_once, width = hidden.shape
        count, heads, device = rows * at_once, self._heads, hidden.device
        if self._counters is None:  # each kernel leaves zeros
            most = max(2 * self._inner // TILE, width, MOST_ROWS * heads.queries)
            self._counters = torch.zeros(most, dtype=torch.int32, device=device)
        assert cache.columns is not None
        length = cache.keys[0].shape[2] - 1
        if length not in self._angles:
            cos, sin = self._rotary(hidden, torch.arange(length, device=device)[None])
            self._angles[length] = (cos[0].contiguous(), sin[0].contiguous())
        if rows not in self._numbers:
            self._numbers[rows] = torch.arange(rows, device=device)
        mask = None if visible is None else visible[:, 0].contiguous()
        hidden = hidden.reshape(count, width).contiguous()
        padded = max(16, _power(count))
        tiles = width // TILE
        few = _Pass(
            kernels=kernels,
            heads=heads,
            counters=self._counters,
            count=count,
            padded=padded,
            scratch=hidden.new_empty(self._scratch(padded), dtype=torch.float32),
            weighted=torch.empty_like(hidden),
            squares=hidden.new_empty(tiles, padded, dtype=torch.float32),
            query=hidden.new_empty(count, heads.queries * heads.width),
            attended=hidden.new_empty(count, heads.queries * heads.width),
            risen=hidden.new_empty(count, self._inner),
            angles=self._angles[length],
            positions=positions.contiguous(),
            numbers=self._numbers[rows] if cache.rows is None else cache.rows,
            columns=cache.columns.contiguous(),
            mask=mask,
            seen=cache.seen,
        )
        norms = [layer.input_norm for layer in self._layers]
        few.weigh(hidden, norms[0])
        for layer, after, keys, values in zip(
            self._layers, [*norms[1:], norms[0]], cache.keys, cache.values, strict=True
        ):
            few.query_key_value(layer, keys, values)
            few.attend(keys, values)
            few.add_product(few.attended, layer.output, layer.output_bias, hidden, layer.feed_forward_norm)
            few.gated_product(layer)
            few.add_product(few.risen, layer.down, layer.down_bias, hidden, after)
        return hidden.view(rows, at_once, width)

    def _can_read(self, layer: LayerWeights) -> bool:
        heads = self._heads
        matrices = (layer.query_key_value, layer.output, layer.gate_rise, layer.down)
        return (
            layer.query_norm is None
            and heads.width in (64, 128)
            and heads.queries % heads.keys == 0
            and all(each.is_contiguous() and each.dtype == torch.bfloat16 for each in matrices)
            and all(each.shape[1] % DEPTH == 0 for each in matrices)
            and self._width % TILE == 0
        )

    def _scratch(self, padded: int) -> int:
        """Numbers that the parts of a product take at most."""
        first = self._layers[0]
        splits = [
            split_of(matrix, self._heads.multiprocessors)
            for matrix in (first.query_key_value, first.output, first.gate_rise, first.down)
        ]
        return max(split.tiles * split.parts for split in splits) * TILE * padded


@dataclass(frozen=True)
class _Pass:
    """The tensors of a pass, and its kernels' launches."""

    kernels: Any
    heads: Heads
    counters: Tensor
    count: int
    padded: int
    scratch: Tensor
    weighted: Tensor
    squares: Tensor
    query: Tensor
    attended: Tensor
    risen: Tensor
    angles: tuple[Tensor, Tensor]
    positions: Tensor
    numbers: Tensor
    columns: Tensor
    mask: Tensor | None
    seen: int

    def weigh(self, hidden: Tensor, weight: Tensor) -> None:
        self.kernels.weigh[(len(self.squares),)](
            hidden, weight, self.weighted, self.squares, self.count, hidden.shape[1], self.padded, TILE,
            num_warps=4,
        )  # fmt: skip

    def query_key_value(self, layer: LayerWeights, keys: Tensor, values: Tensor) -> None:
        matrix, bias, heads = layer.query_key_value, layer.query_key_value_bias, self.heads
        split = split_of(matrix, heads.multiprocessors)
        self.kernels.query_key_value[(split.tiles, split.parts)](
            self.weighted, self.squares, matrix, matrix if bias is None else bias,
            self.scratch, self.counters, *self.angles, self.positions, self.query, keys, values,
            self.numbers, self.columns,
            self.count, matrix.shape[1], split.parts, split.depth, heads.epsilon, len(self.squares),
            heads.queries, heads.keys, keys.shape[2], self.count // len(self.numbers),
            bias is not None, split.parts > 1, heads.width, _power(len(self.squares)),
            self.padded, HALF, DEPTH, num_warps=4, num_stages=3,
        )  # fmt: skip

    def attend(self, keys: Tensor, values: Tensor) -> None:
        heads, rows = self.heads, len(self.numbers)
        groups, at_once = heads.queries // heads.keys, self.count // rows
        queries = min(64, max(16, _power(groups * at_once)))
        blocks = _ceil(groups * at_once, queries)
        tiles = rows * heads.keys * blocks
        parts = min(_ceil(heads.multiprocessors, tiles), _ceil(self.seen, KEYS_OF_PART))
        of_part = _ceil(_ceil(self.seen, KEYS_AT_ONCE), parts) * KEYS_AT_ONCE
        parts = _ceil(self.seen, of_part)
        numbers = self.count * heads.queries
        scratch = self.scratch.new_empty(numbers * (heads.width + 1) * parts if parts > 1 else 1)
        powers = scratch[numbers * heads.width * parts :] if parts > 1 else scratch
        self.kernels.attend[(rows * heads.keys, blocks, parts)](
            self.query, keys, values, self.numbers, keys if self.mask is None else self.mask, scratch, powers,
            self.counters, self.attended, heads.scale * LOG2_E,
            heads.queries, heads.keys, at_once, keys.shape[2], self.seen, parts, of_part,
            0 if self.mask is None else self.mask.shape[1],
            groups, self.mask is not None, parts > 1, queries, KEYS_AT_ONCE, heads.width,
            num_warps=4, num_stages=2,
        )  # fmt: skip

    def add_product(
        self, states: Tensor, matrix: Tensor, bias: Tensor | None, hidden: Tensor, weight: Tensor
    ) -> None:
        split = split_of(matrix, self.heads.multiprocessors)
        self.kernels.add_product[(split.tiles, split.parts)](
            states, matrix, matrix if bias is None else bias, self.scratch, self.counters, hidden, weight,
            self.weighted, self.squares,
            self.count, matrix.shape[1], matrix.shape[0], split.parts, split.depth,
            bias is not None, split.parts > 1, self.padded, TILE, DEPTH, num_warps=4, num_stages=3,
        )  # fmt: skip

    def gated_product(self, layer: LayerWeights) -> None:
        matrix, bias = layer.gate_rise, layer.gate_rise_bias
        split = split_of(matrix, self.heads.multiprocessors)
        self.kernels.gated_product[(split.tiles, split.parts)](
            self.weighted, self.squares, matrix, matrix if bias is None else bias,
            self.scratch, self.counters, self.risen,
            self.count, matrix.shape[1], matrix.shape[0] // 2, split.parts, split.depth,
            self.heads.epsilon, len(self.squares),
            bias is not None, split.parts > 1, _power(len(self.squares)),
            self.padded, HALF, DEPTH, num_warps=4, num_stages=3,
        )  # fmt: skip


def split_of(matrix: Tensor, multiprocessors: int) -> Split:
    """As few parts as keep nearly all multiprocessors busy: they have to be added up."""
    tiles, blocks = _ceil(matrix.shape[0], TILE), matrix.shape[1] // DEPTH
    parts = max(1, min(MOST_PARTS, _ceil(multiprocessors * 9, 10 * tiles), blocks))
    depth = _ceil(blocks, parts) * DEPTH
    return Split(tiles, _ceil(matrix.shape[1], depth), depth)


@cache
def layers_serve(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the kernels are there, and right; what is wrong is said."""
    count = multiprocessors_for(device, dtype)
    if not count or dtype != torch.bfloat16:
        return False
    try:
        off = largest_mistake(device, count)
    except Exception as error:
        warn_once(f"kernels for layers of few rows are left out: {type(error).__name__}: {str(error)[:200]}")
        return False
    if not off <= TOLERANCE:
        warn_once(
            f"kernels for layers of few rows are left out: they are off by {off:.2g} of the largest number"
        )
        return False
    return True


@torch.no_grad()
def largest_mistake(device: torch.device, multiprocessors: int) -> float:
    """Of two small layers beside float32, relative to the largest number; once without biases and masks."""
    found = []
    for biased in (False, True):
        heads = Heads(4, 2, 64, 0.125, 1e-6, multiprocessors)
        case = small_case(heads, biased)
        few, plain = (case.on(device, dtype) for dtype in (torch.bfloat16, torch.float32))
        layers = FewRowsLayers(few.layers, heads, few.rotary)
        if not layers.takes(few.hidden, few.visible, few.cache):
            raise ValueError("a small case isn't taken")
        ours = layers.states(few.hidden, few.positions, few.visible, few.cache)
        wanted = plain.states(heads._replace(multiprocessors=0))
        pairs = [(ours, wanted), *zip(few.cache.keys, plain.cache.keys, strict=True)]
        pairs += zip(few.cache.values, plain.cache.values, strict=True)
        found += [(own.float() - other).abs().max() / other.abs().max() for own, other in pairs]
    return float(torch.stack(found).max())  # a NaN's is NaN


def _power(count: int) -> int:
    return 1 << (count - 1).bit_length()


def _ceil(count: int, share: int) -> int:
    return -(-count // share)
