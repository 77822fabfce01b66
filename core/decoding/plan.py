"""Which block and step each row is at: decided on the host, before the first forward pass."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from opendllm.registries.plugin_calls import wrong_answer
from opendllm.registries.samplers import Sampler

IntArray = NDArray[np.int64]
MOST_KEPT_PLANS = 256
"""Of rows that are no longer there, for others like them."""


@dataclass(frozen=True)
class PlannedSteps:
    """Steps, one a row or one after the other; all arrays are [S] int64, on the host.

    Attributes:
        block: the block that is written.
        index: the step's number within the block.
        steps: the block's number of steps.
        target: masks of the block that remain afterwards; only 0, at the last step, is binding for a
            sampler that doesn't plan.
        number: the step's number within the row; it addresses the row's random draws.
        size: positions of the block that are written.
        masks: masks of the block before the step; where the sampler doesn't plan, before its first.
        after_block: where in the row's plan the next block begins.
    """

    block: IntArray
    index: IntArray
    steps: IntArray
    target: IntArray
    number: IntArray
    size: IntArray
    masks: IntArray
    after_block: IntArray

    def take(self, chosen: IntArray) -> PlannedSteps:
        """The steps in `chosen` [N] int64."""
        return PlannedSteps(
            block=self.block[chosen],
            index=self.index[chosen],
            steps=self.steps[chosen],
            target=self.target[chosen],
            number=self.number[chosen],
            size=self.size[chosen],
            masks=self.masks[chosen],
            after_block=self.after_block[chosen],
        )

    @staticmethod
    def joined(parts: Sequence[PlannedSteps]) -> PlannedSteps:
        """One after the other."""
        return PlannedSteps(
            block=_joined(part.block for part in parts),
            index=_joined(part.index for part in parts),
            steps=_joined(part.steps for part in parts),
            target=_joined(part.target for part in parts),
            number=_joined(part.number for part in parts),
            size=_joined(part.size for part in parts),
            masks=_joined(part.masks for part in parts),
            after_block=_joined(part.after_block for part in parts),
        )


def plan_row(sizes: Sequence[int], steps: int | None, sampler: Sampler) -> PlannedSteps:
    """All steps of a row.

    Steps are shared out evenly among the blocks, the remainder to the earliest, at least one each.
    Steps in which a planning sampler neither commits nor revises are left out: they could not
    change anything. So are those after its last mask.

    Args:
        sizes: how many masks each block has.
        steps: of the whole row; None for what the sampler takes by itself, mostly one a mask.
        sampler: may plan how many masks are left after each.

    Raises:
        UserError: the sampler plans another number of steps than it was asked for.
    """
    shares = [None if steps is None else _share(steps, len(sizes), block) for block in range(len(sizes))]
    block_steps = [_block_steps(sampler, *each) for each in zip(sizes, shares, strict=True)]
    settings = list(zip(sizes, block_steps, strict=True))
    by_setting = {setting: _plan_block(*setting, sampler) for setting in dict.fromkeys(settings)}
    blocks = [by_setting[setting] for setting in settings]
    lengths = np.array([len(found.index) for found in blocks], dtype=np.int64)
    allotted = np.array(block_steps, dtype=np.int64)
    block = np.arange(len(sizes)).repeat(lengths)
    index = _joined(found.index for found in blocks)
    return PlannedSteps(
        block=block,
        index=index,
        steps=allotted[block],
        target=_joined(found.target for found in blocks),
        number=(allotted.cumsum() - allotted)[block] + index,
        size=np.array(sizes, dtype=np.int64)[block],
        masks=_joined(found.masks for found in blocks),
        after_block=lengths.cumsum()[block],
    )


class Plan:
    """The steps of all rows of a canvas.

    Attributes:
        lengths: [B] int64, how many steps each row has.
    """

    def __init__(self, sizes: Sequence[Sequence[int]], steps: int | None, sampler: Sampler) -> None:
        """Plan every row; rows with the same blocks share a plan.

        Args:
            sizes: by row, how many masks each block has.
            steps: see `plan_row`.
            sampler: see `plan_row`.
        """
        self._steps_asked, self._sampler = steps, sampler
        self._found: dict[tuple[int, ...], tuple[int, int]] = {}
        self._steps = PlannedSteps.joined([])
        self._starts: IntArray = np.zeros(len(sizes), dtype=np.int64)
        self.lengths: IntArray = np.zeros(len(sizes), dtype=np.int64)
        self.replace_rows(np.arange(len(sizes)), sizes)

    def replace_rows(self, rows: IntArray, sizes: Sequence[Sequence[int]]) -> None:
        """Plan other rows in place of some.

        Args:
            rows: [R] which make way.
            sizes: by new row, how many masks each block has.
        """
        keys = [tuple(row) for row in sizes]
        if len(self._found) > MOST_KEPT_PLANS:
            self._forget_unused(rows)
        parts = [self._steps]
        total = len(self._steps.block)
        for key in dict.fromkeys(keys):
            if key not in self._found:
                parts.append(plan_row(key, self._steps_asked, self._sampler))
                self._found[key] = (total, len(parts[-1].block))
                total += len(parts[-1].block)
        if len(parts) > 1:
            self._steps = PlannedSteps.joined(parts)
        found = np.array([self._found[key] for key in keys], dtype=np.int64).reshape(-1, 2)
        self._starts[rows], self.lengths[rows] = found[:, 0], found[:, 1]

    def select_rows(self, rows: IntArray) -> None:
        """Go on with these rows only, numbered anew; one may be there several times."""
        self._starts, self.lengths = self._starts[rows], self.lengths[rows]

    def _forget_unused(self, replaced: IntArray) -> None:
        """Keep the plans of those rows only that don't make way: others come for as long as a server runs."""
        stays = np.ones(len(self._starts), dtype=np.bool_)
        stays[replaced] = False
        used = set(self._starts[stays & (self.lengths > 0)].tolist())
        kept = {key: found for key, found in self._found.items() if found[0] in used and found[1]}
        moved: dict[int, int] = {}
        parts, total, self._found = [], 0, {}
        for key, (start, length) in kept.items():
            parts.append(self._steps.take(np.arange(start, start + length)))
            self._found[key] = (total, length)
            moved[start] = total
            total += length
        self._steps = PlannedSteps.joined(parts)
        self._starts = np.array([moved.get(start, 0) for start in self._starts.tolist()], dtype=np.int64)

    def at(self, rows: IntArray, cursor: IntArray) -> PlannedSteps:
        """The step that each row is at; the last one of its plan where it is beyond that.

        A row without any step gets some other row's: nothing in it is written.

        Args:
            rows: [R] their numbers.
            cursor: [R] where in its plan each row is.
        """
        within = np.minimum(cursor, np.maximum(self.lengths[rows] - 1, 0))
        return self._steps.take(np.minimum(self._starts[rows] + within, len(self._steps.block) - 1))


@dataclass(frozen=True)
class _BlockSteps:
    """The steps of one block, see `PlannedSteps`; [S] int64 each."""

    index: IntArray
    target: IntArray
    masks: IntArray


def _plan_block(size: int, steps: int, sampler: Sampler) -> _BlockSteps:
    """Those of a block's `steps` that may change one of its `size` positions."""
    index = np.arange(steps)
    target = np.full(steps, size)  # where nobody knows how many are left before the last step
    if sampler.plans:
        remaining = sampler.remaining_masks(size, steps)
        if len(remaining) != steps:
            issue = f"gave {len(remaining)} numbers, and {steps} were expected, one a step"
            raise wrong_answer(sampler, "sampler", "remaining_masks", issue)
        for left in remaining:
            if type(left) is not int or not 0 <= left <= size:
                issue = f"gave {left!r} of {size} masks: give whole numbers from 0 to {size}"
                raise wrong_answer(sampler, "sampler", "remaining_masks", issue)
        target = np.array(remaining, dtype=np.int64)
    target[-1] = 0
    masks = np.concatenate([[size], target[:-1]])
    if sampler.plans:
        index = np.flatnonzero((masks > 0) & (sampler.revises | (target != masks)))
    return _BlockSteps(index, target[index], masks[index])


def _block_steps(sampler: Sampler, size: int, steps: int | None) -> int:
    found = sampler.block_steps(size, steps)
    if type(found) is not int or found < 1:
        issue = f"gave {found!r} for a block of {size}: give a whole number, at least 1"
        raise wrong_answer(sampler, "sampler", "block_steps", issue)
    return found


def _share(steps: int, blocks: int, block: int) -> int:
    base, remainder = divmod(steps, blocks)
    return max(1, base + (block < remainder))


def _joined(arrays: Iterable[IntArray]) -> IntArray:
    return np.concatenate([np.zeros(0, dtype=np.int64), *arrays])
