"""The model's distributions, chunk by chunk, for samplers that draw their tokens themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from opendllm.core.decoding.filters import filter_logits
from opendllm.core.decoding.proposals import Filters
from opendllm.registries.backbones import TokenPositions
from opendllm.registries.errors import UserError
from opendllm.registries.samplers import PositionChunk

ChunkLogits = Callable[[slice], tuple[Tensor, Tensor | None]]
"""Of some of the positions, [n, V] float32: of the whole canvas and, with guidance, without its prompt."""


@dataclass(frozen=True)
class ChunkedDistributions:
    """Implements `Distributions` for one step.

    Attributes:
        at: the N positions that were asked for.
        canvas: [R, L] int64.
        uniforms: [N] float64, one draw a position.
        logits: makes those of some positions.
        filters: temperature, top-p and top-k.
        guidance_scale: 0 where there is no guidance.
        projected_at_once: positions whose logits are made together.
        read_at_once: positions in a chunk.
    """

    at: TokenPositions
    canvas: Tensor
    uniforms: Tensor
    logits: ChunkLogits
    filters: Filters
    guidance_scale: float
    projected_at_once: int
    read_at_once: int

    def weights(self, logits: Tensor) -> Tensor:
        """See `Distributions.weights`."""
        filters = self.filters
        if filters.temperature == 0:
            return torch.zeros_like(logits).scatter_(1, logits.argmax(-1, keepdim=True), 1.0)
        cut = (filters.top_p, filters.top_k, filters.top_k_first)
        return filter_logits(logits, filters.temperature, *cut).weights

    def read(self, function: Callable[[PositionChunk], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """See `Distributions.read`."""
        parts = [
            _checked(function(chunk), len(chunk.rows))
            for start in range(0, len(self.at.rows), self.projected_at_once)
            for chunk in self._chunks(start)
        ]
        return tuple(self._spread(torch.cat(values)) for values in zip(*parts, strict=True))

    def _chunks(self, start: int) -> Iterator[PositionChunk]:
        """Those of the positions from `start` on whose logits are made together."""
        end = min(start + self.projected_at_once, len(self.at.rows))
        logits, unconditional = self.logits(slice(start, end))
        for first in range(start, end, self.read_at_once):
            chosen = slice(first, min(first + self.read_at_once, end))
            within = slice(chosen.start - start, chosen.stop - start)
            rows, columns = self.at.rows[chosen], self.at.columns[chosen]
            yield PositionChunk(
                rows=rows,
                columns=columns,
                tokens=self.canvas[rows, columns],
                logits=logits[within],
                unconditional=None if unconditional is None else unconditional[within],
                uniforms=self.uniforms[chosen],
            )

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
        given = values if isinstance(values, tuple) else (values,)
        came = ", ".join(str(list(e.shape)) if isinstance(e, Tensor) else type(e).__name__ for e in given)
        raise UserError(
            f"what reads the distributions gives a tuple of tensors [{count}], one value a position; it gave "
            f"{came}"
        )
    return values
