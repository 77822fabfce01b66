"""The layers of a pass over a few columns by five kernels each, see `few_rows_layer_kernels`.

What `layer_states` gives, in bfloat16 on a GPU: float32 stays what it is to the last bit, and the products of
float16 with a norm's weight could be too large for it. They have to compute a small case right before they
are used, in the forms that a model's layers need.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from opendllm.core.foundation.notices import warn_once
from opendllm.core.networks.canvas_cache import CanvasCache
from opendllm.core.networks.few_rows_case import small_case
from opendllm.core.networks.few_rows_pass import DEPTH, TILE, FewRowsPass, adding_form, form_of, power_of_two
from opendllm.core.networks.fused_layer import Heads, LayerWeights
from opendllm.core.networks.varlen_kernels import AMPERE

Rotary = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
MOST_ROWS = 64
"""Beyond, a library's products are as fast or faster."""
TOLERANCE = 3e-2
"""Of two layers in bfloat16 beside float32, relative to the largest number."""


class Kind(NamedTuple):
    """What compiles other kernels.

    Attributes:
        width: of a head.
        groups: query heads of a key head.
        biased: whether products have biases.
        normed: whether heads have norms.
        narrow: see `adding_form`.
    """

    width: int
    groups: int
    biased: bool
    normed: bool
    narrow: bool


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
        self._width, self._inner = first.down.shape
        self._fits = all(map(self._can_read, layers))
        self._rotary = rotary
        inputs = (first.output.shape[1], self._inner)
        biases = (first.query_key_value_bias, first.output_bias, first.gate_rise_bias, first.down_bias)
        self.kind = Kind(
            heads.width,
            heads.queries // heads.keys,
            any(each is not None for each in biases),
            first.query_norm is not None,
            self._width // 16 >= heads.multiprocessors and all(each % (2 * DEPTH) == 0 for each in inputs),
        )
        # At one place for good, since graphs read them: of each length of a canvas, and number of rows.
        self._angles: dict[int, tuple[Tensor, Tensor]] = {}
        self._numbers: dict[int, Tensor] = {}
        self._counters: Tensor | None = None

    def takes(self, hidden: Tensor, cache: CanvasCache | None) -> bool:
        """Whether the kernels are for this pass: over a few kept columns.

        Args:
            hidden: [R, Q, D].
            cache: keys and values.
        """
        return (
            self._fits
            and hidden.dtype == torch.bfloat16
            and 0 < hidden.shape[0] * hidden.shape[1] <= MOST_ROWS
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
        length = cache.keys[0].shape[2] - 1
        self._make_constants(hidden, rows, length)
        assert cache.columns is not None
        assert self._counters is not None
        hidden = hidden.reshape(count, width).contiguous()
        padded = max(16, power_of_two(count))
        few = FewRowsPass(
            kernels=kernels,
            heads=heads,
            narrow=self.kind.narrow,
            counters=self._counters,
            count=count,
            padded=padded,
            scratch=torch.empty(self._scratch(padded), dtype=torch.float32, device=device),
            weighted=torch.empty_like(hidden),
            squares=torch.empty(self._norm_sums, padded, dtype=torch.float32, device=device),
            query=hidden.new_empty(count, heads.queries * heads.width),
            attended=hidden.new_empty(count, heads.queries * heads.width),
            risen=hidden.new_empty(count, self._inner),
            angles=self._angles[length],
            positions=positions.contiguous(),
            numbers=self._numbers[rows] if cache.rows is None else cache.rows,
            columns=cache.columns.contiguous(),
            mask=None if visible is None else visible.contiguous(),
            seen=cache.seen,
            keys=cache.keys,
            values=cache.values,
        )
        with torch.cuda.device_of(hidden):
            self._run(few, hidden)
        return hidden.view(rows, at_once, width)

    def _run(self, few: FewRowsPass, hidden: Tensor) -> None:
        norms = [layer.input_norm for layer in self._layers]
        few.weigh(hidden, norms[0])
        after_each = [*norms[1:], norms[0]]
        for layer, after, keys, values in zip(self._layers, after_each, few.keys, few.values, strict=True):
            few.query_key_value(layer, keys, values)
            few.attend(keys, values)
            few.add_product(few.attended, layer.output, layer.output_bias, hidden, layer.feed_forward_norm)
            few.gated_product(layer)
            few.add_product(few.risen, layer.down, layer.down_bias, hidden, after)

    def _make_constants(self, hidden: Tensor, rows: int, length: int) -> None:
        device = hidden.device
        if self._counters is None:  # each kernel leaves zeros
            most = max(2 * self._inner // TILE, self._width, MOST_ROWS * self._heads.queries)
            self._counters = torch.zeros(most, dtype=torch.int32, device=device)
        if length not in self._angles:
            cos, sin = self._rotary(hidden, torch.arange(length, device=device)[None])
            self._angles[length] = (cos[0].contiguous(), sin[0].contiguous())
        if rows not in self._numbers:
            self._numbers[rows] = torch.arange(rows, device=device)

    def _can_read(self, layer: LayerWeights) -> bool:
        heads = self._heads
        matrices = (layer.query_key_value, layer.output, layer.gate_rise, layer.down)
        return (
            heads.width in (64, 128)
            and heads.queries % heads.keys == 0
            and (layer.query_norm is None) == (layer.key_norm is None)
            and all(each.is_contiguous() and each.dtype == torch.bfloat16 for each in matrices)
            and all(each.shape[1] % DEPTH == 0 for each in matrices)
            and self._width % TILE == 0
        )

    @property
    def _norm_sums(self) -> int:
        """Sums of squares of a state."""
        return adding_form(self._layers[0].down, self.kind.narrow).tiles

    def _scratch(self, padded: int) -> int:
        """Numbers that the parts of a product take at most."""
        first, count = self._layers[0], self._heads.multiprocessors
        forms = [
            form_of(first.query_key_value, count, self._heads.width if self.kind.normed else TILE),
            form_of(first.gate_rise, count),
            adding_form(first.output, self.kind.narrow),
            adding_form(first.down, self.kind.narrow),
        ]
        return max(form.tiles * form.parts * form.tile for form in forms) * padded


@cache
def multiprocessors_of(device: torch.device) -> int:
    """Among how many a GPU's kernels are divided; 0 where they can't be there."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < AMPERE:
        return 0
    try:
        from opendllm.core.networks import few_rows_layer_kernels as _kernels  # noqa: F401 (needs triton)
    except ImportError:
        return 0
    count: int = torch.cuda.get_device_properties(device).multi_processor_count
    return count


@cache
def layers_serve(device: torch.device, kind: Kind) -> bool:
    """Whether the kernels for such layers are right; what is wrong is said."""
    count = multiprocessors_of(device)
    if not count:
        return False
    try:
        off = largest_mistake(device, kind, count)
    except Exception as error:  # a card may have less memory for a program than one takes, say
        warn_once(f"kernels for layers of few rows are left out: {type(error).__name__}: {str(error)[:200]}")
        return False
    if not off <= TOLERANCE:
        warn_once(f"kernels for layers of few rows are left out: off by {off:.2g} of the largest number")
        return False
    return True


@torch.no_grad()
def largest_mistake(device: torch.device, kind: Kind, multiprocessors: int) -> float:
    """Of two small layers beside float32, relative to the largest number: with as many rows as are taken."""
    # Narrow tiles are for many outputs, of which a small case has many for one program.
    heads = Heads(
        4 * kind.groups, 4, kind.width, kind.width**-0.5, 1e-6, 1 if kind.narrow else multiprocessors
    )
    case = small_case(heads, kind.biased, kind.normed)
    few, plain = (case.on(device, dtype) for dtype in (torch.bfloat16, torch.float32))
    layers = FewRowsLayers(few.layers, heads, few.rotary)
    if layers.kind != kind or not layers.takes(few.hidden, few.cache):
        raise ValueError(f"a small case is {layers.kind}")
    ours = layers.states(few.hidden, few.positions, few.visible, few.cache)
    wanted = plain.states(heads)
    pairs = [(ours, wanted), *zip(few.cache.keys, plain.cache.keys, strict=True)]
    pairs += zip(few.cache.values, plain.cache.values, strict=True)
    found = [(own.float() - other).abs().max() / other.abs().max() for own, other in pairs]
    return float(torch.stack(found).max())  # a NaN's is NaN
