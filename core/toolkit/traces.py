"""Traces: in which order an answer's tokens were committed, cut into groups that are learnt one by one.

Block by block, the distinct steps of a block are numbered from 0. (TraceRL, arXiv:2509.06949, section 4.)
"""

from __future__ import annotations

import torch
from torch import Tensor


def blocks_from(maskable: Tensor, block_length: int) -> Tensor:
    """[B, L] int64: blocks of a length counted from where each completion begins; prompts' are negative.

    Args:
        maskable: [B, L] bool, the completions.
        block_length: in tokens.
    """
    columns = torch.arange(maskable.shape[1], device=maskable.device)
    first = maskable.int().argmax(-1, keepdim=True)
    return torch.div(columns - first, block_length, rounding_mode="floor")


def filled_steps(committed_at: Tensor, maskable: Tensor) -> Tensor:
    """[B, L] int64: tokens of a completion that no pass has committed come after all others of their row."""
    last = committed_at.amax(-1, keepdim=True)
    return torch.where(maskable & (committed_at == 0), last + 1, committed_at)


def step_ranks(steps: Tensor, blocks: Tensor, within: Tensor) -> Tensor:
    """[B, L] int64: how many distinct steps of a position's block are before its own; -1 outside `within`.

    Args:
        steps: [B, L] int64, at which each token was committed.
        blocks: [B, L] int64.
        within: [B, L] bool, the tokens that count.
    """
    distinct, first = _distinct(steps, blocks, within)
    return torch.where(within, distinct - first, -1)


def shrunk_steps(steps: Tensor, blocks: Tensor, within: Tensor, shrink: int) -> Tensor:
    """[B, L] int64: of each block's distinct steps in order, each run of `shrink` becomes its largest.

    The last run of a block may be shorter. Outside `within` steps stay as they are.
    """
    distinct, first = _distinct(steps, blocks, within)
    run = torch.where(within, first + (distinct - first) // shrink, 0)
    largest = torch.zeros_like(steps).scatter_reduce(1, run, torch.where(within, steps, 0), "amax")
    return torch.where(within, largest.gather(1, run), steps)


def _distinct(steps: Tensor, blocks: Tensor, within: Tensor) -> tuple[Tensor, Tensor]:
    """[B, L] each: the number of a position's (block, step) among the row's distinct ones, sorted, and the
    smallest such number in its block."""
    block = torch.where(within, blocks - blocks.amin(), 0)
    steps = torch.where(within, steps, 0)
    key = block * (steps.amax() + 1) + steps
    ordered, order = key.masked_fill(~within, torch.iinfo(torch.int64).max).sort(dim=-1, stable=True)
    rises = torch.nn.functional.pad((ordered.diff(dim=-1) != 0).long(), (1, 0)).cumsum(-1)
    distinct = torch.zeros_like(key).scatter(1, order, rises)
    first = torch.full_like(key, key.shape[1])  # no more blocks than columns
    # A block's number may be above the columns' where prompts are cut off: count blocks that occur only.
    names = _names(block)
    first = first.scatter_reduce(1, names, torch.where(within, distinct, key.shape[1]), "amin")
    return distinct, first.gather(1, names)


def _names(block: Tensor) -> Tensor:
    """[B, L] int64 below L, equal where a row's blocks are equal."""
    ordered, order = block.sort(dim=-1, stable=True)
    rises = torch.nn.functional.pad((ordered.diff(dim=-1) != 0).long(), (1, 0)).cumsum(-1)
    return torch.zeros_like(block).scatter(1, order, rises)
