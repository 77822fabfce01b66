"""How many masks are left after each step, by the published rules, on the host."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

END_OF_TIME = 1e-3
"""The last time of the grid t = 1 ... eps (Dream and Open-dLLM `generation_utils`)."""


def time_grid(steps: int) -> torch.Tensor:
    """[steps + 1] float32 times from 1 down to `END_OF_TIME`."""
    return torch.linspace(1, END_OF_TIME, steps + 1, dtype=torch.float32)


def step_times(index: Tensor, steps: Tensor, grid: Literal["uniform", "cosine"]) -> tuple[Tensor, Tensor]:
    """Each row's time t before and s after its step, in float64, from 1 down to `END_OF_TIME`.

    Args:
        index: [B] int64, from 0.
        steps: [B] int64.
        grid: evenly spaced, or cos(pi/2 (1 - u)) of evenly spaced u (MD4, arXiv:2406.04329, section 4).
    """
    before = 1 - (1 - END_OF_TIME) * index.double() / steps
    after = 1 - (1 - END_OF_TIME) * (index.double() + 1) / steps
    if grid == "cosine":
        before, after = (torch.cos(math.pi / 2 * (1 - time)) for time in (before, after))
    return before, after


def remaining_by_time(masks: int, steps: int) -> list[int]:
    """Commit floor(n (1 - s/t)) of the n masks left at each step, all of them at the last.

    In float32, as the published code computes it; another precision moves some of the floors.
    """
    times = time_grid(steps)
    remaining = []
    for index in range(steps):
        if index == steps - 1:
            masks = 0
        else:
            share = 1 - times[index + 1] / times[index]
            masks -= int(torch.tensor(masks, dtype=torch.float32) * share)
        remaining.append(masks)
    return remaining


def remaining_evenly(masks: int, steps: int) -> list[int]:
    """Commit masks // steps at each step, and the remainder one by one at the earliest ones (LLaDA)."""
    remaining = []
    for index in range(steps):
        masks -= -(-masks // (steps - index))
        remaining.append(masks)
    return remaining


def remaining_by_path(masks: int, steps: int) -> list[int]:
    """Keep floor(N (1 - (i+1)/S)) of N masked after step i (Open-dLLM's p2).

    The published code multiplies a float32 count with a Python number, which rounds 1 - (i+1)/S to
    float32 before the product; integers or float64 differ at N = S = 22, for one.
    """
    shares = torch.tensor([1 - (index + 1) / steps for index in range(steps)], dtype=torch.float32)
    return (torch.tensor(masks, dtype=torch.float32) * shares).floor().int().tolist()
