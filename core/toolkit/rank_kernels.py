"""A Triton kernel that ranks positions by comparing them all: one launch for twelve of two stable sorts."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

MINE, OTHERS = 64, 32
"""Positions that a program ranks, and how many it compares them with at once."""


@triton.jit
def _rank(scores, among, out, length, MINE: tl.constexpr, OTHERS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * length
    mine = tl.program_id(1) * MINE + tl.arange(0, MINE)
    inside = mine < length
    score = tl.load(scores + row + mine, mask=inside, other=0.0)[:, None]
    member = (tl.load(among + row + mine, mask=inside, other=0) != 0)[:, None]
    is_nan = score != score
    rank = tl.zeros((MINE,), dtype=tl.int32)
    for start in range(0, length, OTHERS):
        other = start + tl.arange(0, OTHERS)
        there = other < length
        theirs = tl.load(scores + row + other, mask=there, other=0.0)[None, :]
        of_them = (tl.load(among + row + other, mask=there, other=0) != 0)[None, :]
        nan_too = theirs != theirs
        # As sorting has it: NaN before all others.
        above = (theirs > score) | (nan_too & (is_nan == 0))
        level = (theirs == score) | (nan_too & is_nan)
        first = other[None, :] < mine[:, None]
        both = of_them & member
        neither = (of_them == 0) & (member == 0)
        before = (of_them & (member == 0)) | (both & (above | (level & first))) | (neither & first)
        rank += tl.sum((before & there[None, :]).to(tl.int32), 1)
    tl.store(out + row + mine, rank.to(tl.int64), mask=inside)


def rank(scores: Tensor, among: Tensor) -> Tensor:
    """See `rank_in_row`.

    Args:
        scores: [B, L] float.
        among: [B, L] bool.
    """
    rows, length = scores.shape
    out = torch.empty(rows, length, dtype=torch.int64, device=scores.device)
    with torch.cuda.device_of(scores):
        _rank[(rows, triton.cdiv(length, MINE))](
            scores.contiguous(), among.contiguous().view(torch.uint8), out, length, MINE, OTHERS
        )
    return out
