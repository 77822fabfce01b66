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
        layers: two.
        hidden: [R, Q, D].
        positions: [R, Q] int64.
        visible: [R, Q, seen] bool.
        cache: that was written to before.
    """

    layers: list[LayerWeights]
    hidden: Tensor
    positions: Tensor
    visible: Tensor
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
        hidden, positions, visible = map(there, (self.hidden, self.positions, self.visible))
        return SmallCase(layers, hidden, positions, visible, cache)

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


def small_case(
    heads: Heads, biased: bool, normed: bool = False, width: int = 256, inner: int = 512, rows: int = 2
) -> SmallCase:
    """On the CPU, in float32 but of numbers that bfloat16 has.

    Args:
        heads: of the layers.
        biased: with biases.
        normed: with norms of heads.
        width: D.
        inner: F.
        rows: R, of 32 columns; those of the cache are some more, in another order.
    """
    draws = torch.Generator().manual_seed(0)

    def drawn(*shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(shape, generator=draws) * scale).bfloat16().float()

    def bias(size: int) -> Tensor | None:
        return drawn(size) if biased else None

    def norm(size: int) -> Tensor:
        return 1 + drawn(size, scale=0.1).bfloat16().float()

    turned, both = heads.queries * heads.width, (heads.queries + 2 * heads.keys) * heads.width
    layers = [
        LayerWeights(
            norm(width), drawn(both, width, scale=width**-0.5), bias(both),
            norm(heads.width) if normed else None, norm(heads.width) if normed else None,
            drawn(width, turned, scale=turned**-0.5), bias(width), norm(width),
            drawn(2 * inner, width, scale=width**-0.5), bias(2 * inner),
            drawn(width, inner, scale=inner**-0.5), bias(width),
        )
        for _ in range(2)
    ]  # fmt: skip
    at_once, length = 32, 700
    cache = CanvasCache(rows + 1, length)
    cache.make_room(len(layers), drawn(1), (heads.keys, heads.width))
    for store in (*cache.keys, *cache.values):
        store.copy_(drawn(*store.shape))
    cache.seen = 690
    cache.rows = torch.arange(rows, 0, -1)
    cache.columns = torch.arange(100, 100 + 50 * rows, 50)[:, None] + torch.arange(at_once)
    cache.columns[:, -1] = length  # nowhere
    positions = cache.columns.clamp(max=length - 1)
    visible = (torch.arange(cache.seen) + torch.arange(at_once)[:, None]) % 3 > 0
    visible = visible & (torch.arange(rows)[:, None, None] * 600 <= torch.arange(cache.seen))
    return SmallCase(layers, drawn(rows, at_once, width), positions, visible, cache)
