"""Which block and step each row is at: decided on the host, before the first forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
    """

    block: int
    index: int
    steps: int
    target: int
    number: int


def plan_row(sizes: Sequence[int], steps: int | None, sampler: Sampler) -> list[PlannedStep]:
    """All steps of a row.

    Steps are shared out evenly among the blocks, the remainder to the earliest, at least one each.
    Steps in which a planning sampler neither commits nor revises are left out: they could not
    change anything.

    Args:
        sizes: how many masks each block has.
        steps: of the whole row; None for one a mask.
        sampler: plans how many masks are left after each.
    """
    plan: list[PlannedStep] = []
    number = 0
    for block, size in enumerate(sizes):
        block_steps = size if steps is None else _share(steps, len(sizes), block)
        targets = sampler.remaining_masks(size, block_steps)
        left = size
        for index in range(block_steps):
            target = 0 if index == block_steps - 1 else (targets[index] if targets is not None else size)
            idle = targets is not None and not sampler.revises and target == left
            if not idle:
                plan.append(PlannedStep(block, index, block_steps, target, number))
            left = target
            number += 1
    return plan


def _share(steps: int, blocks: int, block: int) -> int:
    base, remainder = divmod(steps, blocks)
    return max(1, base + (block < remainder))
