"""Keys that are kept some passes after what they are of is done."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from opendllm.core.decoding.blocks import Blocks, with_rows
from opendllm.core.decoding.plan import IntArray


@dataclass
class DelayedKeys:
    """Whose keys are kept, of the prompt and the blocks after it, and what is read next (d3LLM @e5bfcacc).

    A block is done when it is found without a mask and so is all that stands left of it. It is read, like
    all that is right of it, `delay` passes longer, and these passes read the whole row; then its keys are
    kept, and what they are of is read no more but at every `refresh`th pass of the row.

    Attributes:
        blocks: [R, L] int64, the block of each editable column, on the model's device; -1 elsewhere.
        ends: [R, K + 1] int64, the column at which the prompt ends, and each block.
        entries: [R, K + 1] int64, the column that predicts the one at each end; the one before if shifted.
        delay: passes.
        refresh: passes; None for never.
        kept: [R] int64, the last whose keys are kept; -1 before any.
        passes: [R] int64, in which each row took part.
        done_at: [R, K + 1] int64, the pass that found each done; -1 where none has.
    """

    blocks: Tensor
    ends: IntArray
    entries: IntArray
    delay: int
    refresh: int | None
    kept: IntArray
    passes: IntArray
    done_at: IntArray

    @staticmethod
    def of(blocks: Blocks, predictors: IntArray, delay: int, refresh: int | None) -> DelayedKeys:
        """Nothing is kept; the prompt is done before the first pass.

        Args:
            blocks: of the canvas.
            predictors: [R, L] the column whose hidden state predicts each column.
            delay: see the class.
            refresh: see the class.
        """
        starts = blocks.first.min(1, keepdims=True)
        ends = np.maximum.accumulate(np.concatenate([starts, blocks.last + 1], axis=1), axis=1)
        rows, length = predictors.shape
        entries = np.take_along_axis(predictors, np.minimum(ends, length - 1), 1)
        done_at = np.full_like(ends, -1)
        done_at[:, 0] = 0
        return DelayedKeys(
            blocks=blocks.of,
            ends=ends,
            entries=entries,
            delay=delay,
            refresh=refresh,
            kept=np.full(rows, -1, dtype=np.int64),
            passes=np.zeros(rows, dtype=np.int64),
            done_at=done_at,
        )

    def select_rows(self, rows: IntArray, index: Tensor) -> DelayedKeys:
        """These rows only; their numbers on the host and on the device."""
        return DelayedKeys(
            blocks=self.blocks[index],
            ends=self.ends[rows],
            entries=self.entries[rows],
            delay=self.delay,
            refresh=self.refresh,
            kept=self.kept[rows],
            passes=self.passes[rows],
            done_at=self.done_at[rows],
        )

    def replace_rows(self, rows: IntArray, others: DelayedKeys) -> DelayedKeys:
        """With others in place of some rows [R] int64; all are of equally long canvases."""
        index = torch.from_numpy(rows).to(self.blocks.device)
        kept, passes = self.kept.copy(), self.passes.copy()
        kept[rows], passes[rows] = others.kept, others.passes
        # Blocks that a row doesn't have end where its last one does.
        more = max(0, others.done_at.shape[1] - self.done_at.shape[1])
        done_at = np.pad(self.done_at, ((0, 0), (0, more)), constant_values=-1)
        done_at[rows] = -1
        done_at[rows, : others.done_at.shape[1]] = others.done_at
        return DelayedKeys(
            blocks=self.blocks.index_copy(0, index, others.blocks),
            ends=with_rows(self.ends, rows, others.ends),
            entries=with_rows(self.entries, rows, others.entries),
            delay=self.delay,
            refresh=self.refresh,
            kept=kept,
            passes=passes,
            done_at=done_at,
        )

    def next_pass(self, masked: Tensor, read: NDArray[np.bool_]) -> IntArray:
        """The first column that a pass reads, and it reads all that follow; 0 reads the whole row.

        Args:
            masked: [R, L] bool, what is to be written yet.
            read: [R] bool, the rows that take part.

        Returns:
            [R] int64.
        """
        slot = (self.blocks + 1).clamp(min=0)
        left = torch.zeros(self.ends.shape, dtype=torch.int64, device=masked.device)
        left = left.scatter_add(1, slot, (masked & (self.blocks >= 0)).long())
        has_masks = left.cpu().numpy() > 0
        self.passes += read
        first = np.zeros(len(read), dtype=np.int64)
        for row in np.flatnonzero(read):
            first[row] = self._walk(int(row), has_masks[row])
        return first

    def _walk(self, row: int, has_masks: NDArray[np.bool_]) -> int:
        now, kept, done_at = int(self.passes[row]), int(self.kept[row]), self.done_at[row]
        entry = 0 if kept < 0 else int(self.entries[row, kept])
        stabilises = False
        for number in range(kept + 1, len(done_at)):
            if has_masks[number]:
                break
            if done_at[number] < 0:
                done_at[number] = now
            stabilises = now - done_at[number] < self.delay
            if stabilises:
                break
            self.kept[row] = number
        if self.kept[row] > kept:
            return entry  # what is kept from now on is read once more
        refreshes = self.refresh is not None and now % self.refresh == 0
        return 0 if stabilises or refreshes else entry
