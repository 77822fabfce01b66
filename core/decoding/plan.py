"""Which block and step each row is at: decided on the host, before the first forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from opendllm.registries.samplers import Sampler


@dataclass(frozen=True)
class PlannedStep:
    """One step of one row.

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

    block: int
    index: int
    steps: int
    target: int
    number: int
    size: int
    masks: int
    after_block: int


FIELDS = ("block", "index", "steps", "target", "number", "size", "masks", "after_block")


def plan_row(sizes: Sequence[int], steps: int | None, sampler: Sampler) -> list[PlannedStep]:
    """All steps of a row.

    Steps are shared out evenly among the blocks, the remainder to the earliest, at least one each.
    Steps in which a planning sampler neither commits nor revises are left out: they could not
    change anything. So are those after its last mask.

    Args:
        sizes: how many masks each block has.
        steps: of the whole row; None for one a mask, and one more for each that the row may grow by.
        sampler: plans how many masks are left after each.
    """
    plan: list[PlannedStep] = []
    number = 0
    for block, size in enumerate(sizes):
        # A row that grows uses up a step for every growth, and one for the mask that this adds.
        block_steps = size + 2 * sampler.growth if steps is None else _share(steps, len(sizes), block)
        targets = sampler.remaining_masks(size, block_steps)
        left = size
        found: list[PlannedStep] = []
        for index in range(block_steps):
            target = 0 if index == block_steps - 1 else (targets[index] if targets is not None else size)
            idle = targets is not None and (left == 0 or (not sampler.revises and target == left))
            if not idle:
                found.append(PlannedStep(block, index, block_steps, target, number, size, left, 0))
            left = target if targets is not None else left
            number += 1
        end = len(plan) + len(found)
        plan += [replace(step, after_block=end) for step in found]
    return plan


class Plan:
    """The steps of all rows, as one table on the host.

    Attributes:
        table: [B, T, F] int64, row by row the fields of each step; rows with fewer steps are filled up.
        lengths: [B] int64, how many steps each row has.
    """

    def __init__(self, sizes: Sequence[Sequence[int]], steps: int | None, sampler: Sampler) -> None:
        """Plan every row; rows with the same blocks share a plan.

        Args:
            sizes: by row, how many masks each block has.
            steps: see `plan_row`.
            sampler: see `plan_row`.
        """
        keys = [tuple(row) for row in sizes]
        plans = {key: plan_row(key, steps, sampler) for key in set(keys)}
        arrays = {
            key: np.array([[getattr(step, name) for name in FIELDS] for step in plan], dtype=np.int64)
            for key, plan in plans.items()
        }
        longest = max((len(plan) for plan in plans.values()), default=0)
        self.table: NDArray[np.int64] = np.zeros((len(keys), max(1, longest), len(FIELDS)), dtype=np.int64)
        self.lengths: NDArray[np.int64] = np.array([len(plans[key]) for key in keys], dtype=np.int64)
        for row, key in enumerate(keys):
            if len(arrays[key]):
                self.table[row, : len(arrays[key])] = arrays[key]


def _share(steps: int, blocks: int, block: int) -> int:
    base, remainder = divmod(steps, blocks)
    return max(1, base + (block < remainder))
