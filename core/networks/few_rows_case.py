"""A small pass over a few columns, that kernels are compared on with `layer_states` in float32."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from opendllm.core.networks.canvas_cache import CanvasCache
from opendllm.core.networks.fused_layer import Heads, Kept, LayerWeights, layer_states


class SmallCase(NamedTuple):
    """Two layers and a pass over some columns.

    Attributes:
        layers: with weights of unit scale.
        hidden: [R, Q, D].
        positions: [R, Q] int64.
        visible: [R, 1, seen] bool or None.
        cache: that was written to before.
    """

    layers: list[LayerWeights]
    hidden: Tensor
    positions: Tensor
    visible: Tensor | None
    cache: CanvasCache

    def on(self, device: torch.device, dtype: torch.dtype) -> SmallCase:
        """A copy elsewhere."""

        def there(each: Tensor) -> Tensor:
            return each.to(device, dtype if each.is_floating_point() else None, copy=True)

        cache = CanvasCache(len(self.cache.keys[0]), self.cache.keys[0].shape[2] - 1)
        cache.keys, cache.values = [*map(there, self.cache.keys)], [*map(there, self.cache.values)]
        cache.seen = self.cache.seen
        cache.rows = None if self.cache.rows is None else there(self.cache.rows)
        cache.columns = None if self.cache.columns is None else there(self.cache.columns)
        layers = [
            layer._replace(
                **{name: there(each) for name, each in layer._asdict().items() if each is not None}
            )
            for layer in self.layers
        ]
        visible = None if self.visible is None else there(self.visible)
        return SmallCase(layers, there(self.hidden), there(self.positions), visible, cache)

    def rotary(self, like: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """[R, Q, K] cosines and sines, of the type of another tensor."""
        width = self.cache.keys[0].shape[-1]
        frequencies = 10000 ** -(torch.arange(width, device=like.device) % (width // 2) / (width // 2))
        angle = positions[:, :, None] * frequencies
        return angle.cos().to(like.dtype), angle.sin().to(like.dtype)

    def states(self, heads: Heads) -> Tensor:
        """What `layer_states` gives."""
        hidden, added = self.hidden, torch.zeros_like(self.hidden)
        cos, sin = self.rotary(hidden, self.positions)
        angles = (cos[:, :, None], sin[:, :, None])
        for layer, keys, values in zip(self.layers, self.cache.keys, self.cache.values, strict=True):
            kept = Kept(keys, values, self.cache.rows, self.cache.columns, self.cache.seen)
            hidden, added = layer_states(hidden, added, layer, heads, angles, self.visible, kept)
        return hidden + added


def small_case(heads: Heads, biased: bool, width: int = 256, inner: int = 384) -> SmallCase:
    """On the CPU, in float32 but of numbers that bfloat16 has.

    Args:
        heads: of the layers.
        biased: with biases, a mask, and rows that are not all.
        width: D.
        inner: F.
    """
    draws = torch.Generator().manual_seed(0)

    def drawn(*shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(shape, generator=draws) * scale).bfloat16().float()

    def bias(size: int) -> Tensor | None:
        return drawn(size) if biased else None

    turned, both = heads.queries * heads.width, (heads.queries + 2 * heads.keys) * heads.width
    layers = [
        LayerWeights(
            1 + drawn(width, scale=0.1), drawn(both, width, scale=width**-0.5), bias(both), None, None,
            drawn(width, turned, scale=turned**-0.5), bias(width), 1 + drawn(width, scale=0.1),
            drawn(2 * inner, width, scale=width**-0.5), bias(2 * inner),
            drawn(width, inner, scale=inner**-0.5), bias(width),
        )
        for _ in range(2)
    ]  # fmt: skip
    rows, at_once, length = 2, 9, 300
    cache = CanvasCache(3 if biased else rows, length)
    cache.make_room(len(layers), drawn(1), (heads.keys, heads.width))
    for store in (*cache.keys, *cache.values):
        store.copy_(drawn(*store.shape))
    cache.seen = 290 if biased else length
    cache.rows = torch.tensor([2, 0]) if biased else None
    cache.columns = torch.tensor([[100], [7]]) + torch.arange(at_once)
    cache.columns[:, -1] = length  # nowhere
    visible = (torch.arange(cache.seen) % 3 > 0).expand(rows, 1, -1) if biased else None
    positions = cache.columns.clamp(max=length - 1)
    return SmallCase(layers, drawn(rows, at_once, width), positions, visible, cache)
