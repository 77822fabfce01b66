"""The blocks that a canvas is written in, from left to right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from opendllm.registries.backbones import DiffusionLM
from opendllm.registries.errors import UserError
from opendllm.registries.sequences import ModelInputs


@dataclass(frozen=True)
class Blocks:
    """Which block each editable position belongs to.

    Attributes:
        of: [B, L] int64, the block's number, in the order they are written; -1 where not editable.
        sizes: by row, how many editable positions each block has; on the host.
        first: [B, K] int64, each block's first editable column; on the host.
        last: [B, K] int64, its last one.
    """

    of: Tensor
    sizes: list[list[int]]
    first: NDArray[np.int64]
    last: NDArray[np.int64]

    def as_one(self) -> Blocks:
        """All of each row as a single block."""
        return Blocks(
            torch.where(self.of >= 0, 0, -1),
            [[sum(row)] if row else [] for row in self.sizes],
            self.first.min(1, keepdims=True),
            self.last.max(1, keepdims=True),
        )


def find_blocks(lm: DiffusionLM, layout: ModelInputs, editable: Tensor, block_length: int | None) -> Blocks:
    """A causal checkpoint's blocks are single positions, a block-causal one's its own; else by length.

    A block-causal checkpoint's blocks may be written in sub-blocks. Where its logits are shifted, a block's
    first token is written before the others: the block before it, which is clean, predicts it.

    Args:
        lm: the model.
        layout: of the canvas.
        editable: [B, L] bool.
        block_length: editable positions in a block, counted in order, or positions in a sub-block; None for
            one block, or for the checkpoint's own.

    Raises:
        UserError: a length is given to a causal checkpoint, or doesn't divide the checkpoint's blocks.
    """
    order = editable.cumsum(-1) - 1
    own = lm.attention.blocks(layout.positions)
    if own is None:
        numbers = order // block_length if block_length else torch.zeros_like(order)
    else:
        own = _written_together(lm, layout.positions, own, block_length)
        # A block's first editable position is one that no earlier editable position shares it with.
        earlier = torch.where(editable, own, -1).cummax(-1).values.roll(1, -1)
        earlier[:, 0] = -1
        numbers = (editable & (own > earlier)).cumsum(-1) - 1
    of = torch.where(editable, numbers, -1)
    count = max(1, int(of.max()) + 1)
    rows, length = of.shape
    columns = torch.arange(length, device=of.device).expand_as(of)
    slot = torch.where(editable, numbers, count)  # what isn't editable goes into a slot of its own
    empty = torch.zeros(rows, count + 1, dtype=torch.int64, device=of.device)
    sizes = empty.scatter_add(1, slot, torch.ones_like(slot))[:, :count].tolist()
    first = (empty + length).scatter_reduce(1, slot, columns, "amin")[:, :count]
    last = empty.scatter_reduce(1, slot, columns, "amax")[:, :count]
    return Blocks(
        of, [[size for size in row if size] for row in sizes], first.cpu().numpy(), last.cpu().numpy()
    )


def _written_together(lm: DiffusionLM, positions: Tensor, own: Tensor, block_length: int | None) -> Tensor:
    """[B, L] int64, ascending: equal where positions are written in the same block."""
    length = lm.attention.block_length
    if length is None:
        if block_length is not None:
            raise UserError("block_length has no effect with a causal checkpoint: leave it out")
        return own
    if block_length is not None:
        if length % block_length:
            raise UserError(
                f"block_length is {block_length}, and this checkpoint's blocks of {length} have no such "
                f"sub-blocks: give a length that divides theirs"
            )
        own = positions // block_length
    return 2 * own + (positions % length > 0) if lm.logit_shift else own


def check_lengths(lm: DiffusionLM, real: Tensor, growth: int) -> Tensor:
    """[B] int64: by how many positions each row can grow, `growth` at most, and still fit the model.

    Args:
        lm: the model.
        real: [B, L] bool, False on padding.
        growth: see `Sampler.growth`.

    Raises:
        UserError: a row has no tokens, or more than the model's context.
    """
    lengths = real.sum(-1)
    for row, length in enumerate(lengths.tolist()):
        if length == 0:
            raise UserError(f"row {row} of the canvas has no tokens")
        if length > lm.context_length:
            raise UserError(
                f"row {row} has {length} tokens, more than the model's context of {lm.context_length}"
            )
    return (lm.context_length - lengths).clamp(max=growth)


ValueT = TypeVar("ValueT", bound=np.generic)


def with_rows(values: NDArray[ValueT], rows: NDArray[np.int64], others: NDArray[ValueT]) -> NDArray[ValueT]:
    """[B, K] with others [R, K'] in some rows; the narrower ones are filled up, with what nobody reads."""
    width = max(values.shape[1], others.shape[1])
    found = np.pad(values, ((0, 0), (0, width - values.shape[1])), mode="edge")
    found[rows] = np.pad(others, ((0, 0), (0, width - others.shape[1])), mode="edge")
    return found
