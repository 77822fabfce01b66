"""One pass over a few columns: the launches of its kernels, and how their work is divided among programs.

Measured on an H100 with 32 rows, in microseconds: `add_product` of 4,096 outputs is fastest in tiles of 16
without parts (of 12,288 inputs 41.0; in tiles of 64 and two parts 42.9; reading takes 33.7), of 896 in tiles
of 32 and four parts (of 4,864 inputs 8.4; 9.1). `attend` is by 16 queries and 128 keys at once (32 heads, 384
keys: 8.8; by 32 queries, 64 keys and four parts 11.8).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from opendllm.core.networks.fused_layer import Heads, LayerWeights

TILE, DEPTH = 64, 128
"""Outputs of a program, and how far it multiplies at once; `DEPTH` divides the width of matrices."""
MOST_PARTS = 8
QUERIES, KEYS_AT_ONCE, KEYS_OF_PART = 16, 128, 512
NORM_TILES = 64
"""Of the sums of squares that are added up at once."""
LOG2_E = 1.4426950408889634


class Form(NamedTuple):
    """How a product is divided among programs.

    Attributes:
        tile: outputs of each.
        step: how far it multiplies at once.
        stages: of its loads.
        tiles: of the outputs.
        parts: of what is summed over.
        depth: of a part.
    """

    tile: int
    step: int
    stages: int
    tiles: int
    parts: int
    depth: int


def form_of(matrix: Tensor, multiprocessors: int, tile: int = TILE) -> Form:
    """As few parts as keep nearly all multiprocessors busy: they have to be added up."""
    outputs, inputs = matrix.shape
    parts = max(1, min(MOST_PARTS, ceil(multiprocessors * 9, 10 * ceil(outputs, tile))))
    return _form(matrix, tile, DEPTH, 3, min(parts, inputs // DEPTH))


def adding_form(matrix: Tensor, narrow: bool) -> Form:
    """Of `add_product`: in narrow tiles without parts, or in parts."""
    if narrow:
        return _form(matrix, 16, 2 * DEPTH, 4, 1)
    return _form(matrix, 32, DEPTH, 4, min(4, matrix.shape[1] // DEPTH))


def _form(matrix: Tensor, tile: int, step: int, stages: int, parts: int) -> Form:
    outputs, inputs = matrix.shape
    depth = ceil(ceil(inputs, step), parts) * step
    return Form(tile, step, stages, ceil(outputs, tile), ceil(inputs, depth), depth)


@dataclass(frozen=True)
class FewRowsPass:
    """Over N states of R rows, padded to a power of two.

    Attributes:
        kernels: `few_rows_layer_kernels`.
        heads: of each layer.
        narrow: see `adding_form`.
        counters: int32 zeros, before each kernel and after it.
        count: N.
        padded: N, or more.
        scratch: float32, as large as all parts of a product.
        weighted: [N, D], the states times the next norm's weights.
        squares: [tiles, padded] float32, sums of the states' squares.
        query: [N, H K].
        attended: [N, H K].
        risen: [N, F].
        angles: cosines and sines [P, K] of all positions.
        positions: [R, N / R] int64.
        numbers: [R] int64, of the rows in the cache.
        columns: [R, N / R] int64.
        mask: [R, N / R or 1, seen] bool; None where all see all.
        seen: how many columns are read.
        keys: of each layer [B, G, L + 1, K], written at some places.
        values: the same.
    """

    kernels: Any
    heads: Heads
    narrow: bool
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
    keys: Sequence[Tensor]
    values: Sequence[Tensor]

    def weigh(self, hidden: Tensor, weight: Tensor) -> None:
        """Begin with some states: what the first norm needs of them."""
        tiles, width = len(self.squares), hidden.shape[1]
        self.kernels.weigh[(tiles,)](
            hidden, weight, self.weighted, self.squares, self.count, width, self.padded, width // tiles,
            num_warps=4,
        )  # fmt: skip

    def query_key_value(self, layer: LayerWeights, keys: Tensor, values: Tensor) -> None:
        """A layer's heads, into the cache where they are kept."""
        matrix, bias, heads = layer.query_key_value, layer.query_key_value_bias, self.heads
        query_norm, key_norm = layer.query_norm, layer.key_norm
        normed = query_norm is not None
        form = form_of(matrix, heads.multiprocessors, heads.width if normed else TILE)
        self.kernels.query_key_value[(form.tiles, form.parts)](
            self.weighted, self.squares, matrix, matrix if bias is None else bias,
            query_norm if normed else matrix, key_norm if normed else matrix,
            self.scratch, self.counters, *self.angles, self.positions, self.query, keys, values,
            self.numbers, self.columns,
            self.count, matrix.shape[1], form.parts, form.depth, heads.epsilon, len(self.squares),
            heads.queries, heads.keys, keys.shape[2], self.count // len(self.numbers),
            bias is not None, normed, form.parts > 1, heads.width, self._norm_tiles,
            self.padded, form.tile // 2, form.step, num_warps=4, num_stages=form.stages,
        )  # fmt: skip

    def attend(self, keys: Tensor, values: Tensor) -> None:
        """Mix the values that the queries see."""
        heads, rows, mask = self.heads, len(self.numbers), self.mask
        groups, at_once = heads.queries // heads.keys, self.count // rows
        blocks = ceil(groups * at_once, QUERIES)
        parts = min(ceil(heads.multiprocessors, rows * heads.keys * blocks), ceil(self.seen, KEYS_OF_PART))
        of_part = ceil(ceil(self.seen, KEYS_AT_ONCE), parts) * KEYS_AT_ONCE
        parts = ceil(self.seen, of_part)
        numbers = self.count * heads.queries
        scratch = self.scratch.new_empty(numbers * (heads.width + 1) * parts if parts > 1 else 1)
        powers = scratch[numbers * heads.width * parts :] if parts > 1 else scratch
        strides = (0, 0) if mask is None else (mask.stride(0), mask.stride(1) if mask.shape[1] > 1 else 0)
        self.kernels.attend[(rows * heads.keys, blocks, parts)](
            self.query, keys, values, self.numbers, keys if mask is None else mask, scratch, powers,
            self.counters, self.attended, heads.scale * LOG2_E,
            heads.queries, heads.keys, at_once, keys.shape[2], self.seen, parts, of_part, *strides,
            groups, mask is not None, parts > 1, QUERIES, KEYS_AT_ONCE, heads.width,
            num_warps=4, num_stages=3,
        )  # fmt: skip

    def add_product(
        self, states: Tensor, matrix: Tensor, bias: Tensor | None, hidden: Tensor, weight: Tensor
    ) -> None:
        """Add to the states `hidden`; `weight` is the next norm's."""
        form = adding_form(matrix, self.narrow)
        self.kernels.add_product[(form.tiles, form.parts)](
            states, matrix, matrix if bias is None else bias, self.scratch, self.counters, hidden, weight,
            self.weighted, self.squares,
            self.count, matrix.shape[1], matrix.shape[0], form.parts, form.depth,
            bias is not None, form.parts > 1, self.padded, form.tile, form.step,
            num_warps=4, num_stages=form.stages,
        )  # fmt: skip

    def gated_product(self, layer: LayerWeights) -> None:
        """The feed-forward's gate and rise."""
        matrix, bias = layer.gate_rise, layer.gate_rise_bias
        form = form_of(matrix, self.heads.multiprocessors)
        self.kernels.gated_product[(form.tiles, form.parts)](
            self.weighted, self.squares, matrix, matrix if bias is None else bias,
            self.scratch, self.counters, self.risen,
            self.count, matrix.shape[1], matrix.shape[0] // 2, form.parts, form.depth,
            self.heads.epsilon, len(self.squares),
            bias is not None, form.parts > 1, self._norm_tiles,
            self.padded, form.tile // 2, form.step, num_warps=4, num_stages=form.stages,
        )  # fmt: skip

    @property
    def _norm_tiles(self) -> int:
        return min(NORM_TILES, power_of_two(len(self.squares)))


def power_of_two(count: int) -> int:
    """The least one that is at least `count`."""
    return 1 << (count - 1).bit_length()


def ceil(count: int, share: int) -> int:
    """The quotient, rounded up."""
    return -(-count // share)
