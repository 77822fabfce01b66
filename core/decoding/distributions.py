"""The model's distributions, chunk by chunk, for samplers that draw their tokens themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from opendllm.core.decoding.filters import filter_logits
from opendllm.core.decoding.proposals import Filters
from opendllm.registries.backbones import TokenPositions
from opendllm.registries.errors import UserError
from opendllm.registries.samplers import PositionChunk

ChunkLogits = Callable[[slice], tuple[Tensor, Tensor | None]]
"""[n, V] float32 logits of some of the positions, with guidance of the whole canvas and without its prompt."""


@dataclass(frozen=True)
class ChunkedDistributions:
    """Implements `Distributions` for one step.

    Attributes:
        at: the N positions that were asked for.
        canvas: [R, L] int64.
        uniforms: [N] float64, one draw a position.
        logits: makes those of a chunk.
        filters: temperature, top-p and top-k.
        guidance_scale: 0 where there is no guidance.
        at_once: positions in a chunk.
    """

    at: TokenPositions
    canvas: Tensor
    uniforms: Tensor
    logits: ChunkLogits
    filters: Filters
    guidance_scale: float
    at_once: int

    @property
    def temperature(self) -> float:
        """See `Distributions.temperature`."""
        return self.filters.temperature

    @property
    def filtered(self) -> bool:
        """See `Distributions.filtered`."""
        return self.filters.cut

    def filter(self, weights: Tensor) -> Tensor:
        """See `Distributions.filter`."""
        return filter_logits(weights.float().log(), 1.0, self.filters.top_p, self.filters.top_k).weights

    def read(self, function: Callable[[PositionChunk], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """See `Distributions.read`."""
        count = len(self.at.rows)
        parts = []
        for start in range(0, count, self.at_once):
            chosen = slice(start, min(start + self.at_once, count))
            rows, columns = self.at.rows[chosen], self.at.columns[chosen]
            logits, unconditional = self.logits(chosen)
            tokens = self.canvas[rows, columns]
            chunk = PositionChunk(rows, columns, tokens, logits, unconditional, self.uniforms[chosen])
            parts.append(_checked(function(chunk), len(rows)))
        return tuple(self._spread(torch.cat(values)) for values in zip(*parts, strict=True))

    def _spread(self, values: Tensor) -> Tensor:
        """[R, L] with `values` [N] at their positions, and 0 elsewhere."""
        whole = torch.zeros(self.canvas.shape, dtype=values.dtype, device=values.device)
        whole[self.at.rows, self.at.columns] = values
        return whole


def _checked(values: object, count: int) -> tuple[Tensor, ...]:
    """What a sampler's function gave for `count` positions, if these are tensors [count].

    Raises:
        UserError: they aren't.
    """
    if not isinstance(values, tuple) or not all(
        isinstance(each, Tensor) and each.shape == (count,) for each in values
    ):
        came = [list(each.shape) if isinstance(each, Tensor) else type(each).__name__ for each in _all(values)]
        raise UserError(
            f"what reads the distributions gives a tuple of tensors [{count}], one value a position; it gave "
            f"{came}"
        )
    return values


def _all(values: object) -> tuple[object, ...]:
    return values if isinstance(values, tuple) else (values,)
