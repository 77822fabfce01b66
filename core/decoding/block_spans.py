"""What the steps of each block read, where keys and values are kept; on the host."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from opendllm.core.decoding.blocks import Blocks, with_rows
from opendllm.core.decoding.options import DecoderOptions
from opendllm.core.decoding.plan import IntArray
from opendllm.registries.backbones import DiffusionLM
from opendllm.registries.sequences import ModelInputs


@dataclass(frozen=True)
class BlockSpans:
    """What the steps of each block read, where keys and values are kept; on the host.

    Attributes:
        first: [R, K] int64, by row and block the first column that its steps read.
        last: [R, K] int64, the last one.
        entry: [R, K] int64, the first one that the block's first step reads: what has been written since
            is read once more.
        own: [R, L] int64, the checkpoint's own block of each column, which sees no later one; None where all
            see all.
        sub_blocks: where a block-causal checkpoint's blocks are written in sub-blocks, read alone; or None.
    """

    first: IntArray
    last: IntArray
    entry: IntArray
    own: IntArray | None = None
    sub_blocks: SubBlockSpans | None = None

    def select_rows(self, rows: IntArray) -> BlockSpans:
        """These rows only."""
        sub_blocks = None if self.sub_blocks is None else self.sub_blocks.select_rows(rows)
        own = None if self.own is None else self.own[rows]
        return BlockSpans(self.first[rows], self.last[rows], self.entry[rows], own, sub_blocks)

    def replace_rows(self, rows: IntArray, others: BlockSpans) -> BlockSpans:
        """With the spans of other rows in place of some [R] int64; all are of equally long canvases."""
        own = None if self.own is None or others.own is None else with_rows(self.own, rows, others.own)
        sub_blocks = None
        if self.sub_blocks is not None and others.sub_blocks is not None:
            sub_blocks = self.sub_blocks.replace_rows(rows, others.sub_blocks)
        return BlockSpans(
            with_rows(self.first, rows, others.first),
            with_rows(self.last, rows, others.last),
            with_rows(self.entry, rows, others.entry),
            own,
            sub_blocks,
        )


@dataclass(frozen=True)
class SubBlockSpans:
    """What is read of a sub-block alone, where its block's keys are kept (Fast-dLLM v2's block cache).

    Attributes:
        first: [R, K] int64, the sub-block's first column.
        last: [R, K] int64, its last one.
        fresh: [R, K] bool, whether its first step reads the whole block, of which no keys are kept yet.
        never: [R, K] bool, where another block predicts it, which is then read whole.
    """

    first: IntArray
    last: IntArray
    fresh: NDArray[np.bool_]
    never: NDArray[np.bool_]

    def select_rows(self, rows: IntArray) -> SubBlockSpans:
        """These rows only."""
        return SubBlockSpans(self.first[rows], self.last[rows], self.fresh[rows], self.never[rows])

    def replace_rows(self, rows: IntArray, others: SubBlockSpans) -> SubBlockSpans:
        """See `BlockSpans.replace_rows`."""
        return SubBlockSpans(
            with_rows(self.first, rows, others.first),
            with_rows(self.last, rows, others.last),
            with_rows(self.fresh, rows, others.fresh),
            with_rows(self.never, rows, others.never),
        )


def block_spans(lm: DiffusionLM, layout: ModelInputs, blocks: Blocks, options: DecoderOptions) -> BlockSpans:
    """What the steps of the blocks of rows read, as the options have it."""
    ends = np.int64(layout.tokens.shape[1] - 1)
    first, last = np.minimum(blocks.first, ends), blocks.last
    predictors = lm.predictors(layout.segments).cpu().numpy()
    rows = np.arange(len(first))[:, None]
    sources = predictors[rows, first]
    own = lm.attention.blocks(layout.positions)
    if lm.attention.kind == "causal":
        last = predictors[rows, last]
    elif own is not None:
        # All of a block sees all of it, its fixed tokens too.
        own = own.contiguous()
        sub_blocks = (
            _sub_block_spans(layout, own, first, sources, options) if options.cache == "dual" else None
        )
        begins = _start(own, first)
        # Where logits are shifted, the clean block before predicts a block's first token, and is read alone.
        first, last = _start(own, sources), _start(own, sources, right=True) - 1
        before = np.concatenate([np.zeros_like(begins[:, :1]), begins[:, :-1]], axis=1)
        return BlockSpans(first, last, np.minimum(before, first), own.cpu().numpy(), sub_blocks)
    elif options.cache == "prefix":
        last = np.full_like(last, ends)
    before = np.concatenate([np.zeros_like(first[:, :1]), first[:, :-1]], axis=1)
    first = np.minimum(first, sources)
    host = None if own is None else own.cpu().numpy()
    return BlockSpans(first, last, np.minimum(before, first), host)


def _start(own: Tensor, columns: IntArray, right: bool = False) -> IntArray:
    """[R, K] the column at which the block [R, L] of each of the columns begins; or that after its end."""
    inside = own.gather(1, torch.from_numpy(columns).to(own.device))
    found: IntArray = torch.searchsorted(own, inside, right=right).cpu().numpy()
    return found


def _sub_block_spans(
    layout: ModelInputs, own: Tensor, columns: IntArray, sources: IntArray, options: DecoderOptions
) -> SubBlockSpans:
    """Of the sub-blocks that the `columns` [R, K] are in, which `sources` [R, K] predict."""
    assert options.block_length is not None
    sub_blocks = (layout.positions // options.block_length).contiguous()
    read = _start(own, sources)
    fresh = np.ones_like(read, dtype=np.bool_)
    fresh[:, 1:] = read[:, 1:] != read[:, :-1]
    return SubBlockSpans(
        first=_start(sub_blocks, columns),
        last=_start(sub_blocks, columns, right=True) - 1,
        fresh=fresh,
        never=read != _start(own, columns),
    )
