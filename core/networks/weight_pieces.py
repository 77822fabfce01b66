"""Published tensors that are pieces of the stock class's parameters, or several of them in one.

Experts are published one by one and computed from one stacked parameter; a fused projection is published
as one tensor and computed from three. Pieces are views: nothing is held twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor


@dataclass(frozen=True)
class Piece:
    """A part of a parameter.

    Attributes:
        name: of the parameter, in the stock class.
        index: of the part in it; empty for all of it.
    """

    name: str
    index: tuple[int | slice, ...] = ()

    def of(self, tensor: Tensor) -> Tensor:
        """The part of the parameter's `tensor`, a view."""
        return tensor[self.index] if self.index else tensor


Pieces: TypeAlias = Mapping[str, Sequence[Piece]]
"""From a published key to the pieces that its tensor holds, one after the other along the first dimension."""


def expert_pieces(
    published: str, ours: str, experts: int, width: int
) -> Iterator[tuple[str, Sequence[Piece]]]:
    """Of a mixture layer whose experts are published one by one.

    Args:
        published: what the experts' keys begin with, up to the expert's number.
        ours: what the stacked parameters' names begin with.
        experts: how many.
        width: of an expert's hidden layer.
    """
    for expert in range(experts):
        key = f"{published}.{expert}"
        yield f"{key}.gate_proj.weight", (Piece(f"{ours}.gate_up_proj", (expert, slice(0, width))),)
        yield f"{key}.up_proj.weight", (Piece(f"{ours}.gate_up_proj", (expert, slice(width, 2 * width))),)
        yield f"{key}.down_proj.weight", (Piece(f"{ours}.down_proj", (expert,)),)


def stacked_pieces(published: str, ours: str, width: int) -> Iterator[tuple[str, Sequence[Piece]]]:
    """Of a mixture layer whose experts are published stacked, gate and up apart; see `expert_pieces`."""
    yield f"{published}.gate_proj", (Piece(f"{ours}.gate_up_proj", (slice(None), slice(0, width))),)
    yield f"{published}.up_proj", (Piece(f"{ours}.gate_up_proj", (slice(None), slice(width, 2 * width))),)
    yield f"{published}.down_proj", (Piece(f"{ours}.down_proj"),)


def published_tensors(pieces: Pieces, weights: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """(key, tensor) as published, of the stock class's `weights`; a single piece is a view of them."""
    for key, parts in pieces.items():
        tensors = [part.of(weights[part.name]) for part in parts]
        yield key, tensors[0] if len(tensors) == 1 else torch.cat([each.cpu() for each in tensors])
