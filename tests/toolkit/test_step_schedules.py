"""The published step rules, transcribed once more in plain numpy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from opendllm.core.toolkit.step_schedules import (
    END_OF_TIME,
    remaining_by_path,
    remaining_by_time,
    remaining_evenly,
    time_grid,
)

SIZES = [
    (masks, steps) for masks in (1, 2, 3, 7, 12, 16, 22, 64, 128) for steps in (1, 2, 3, 7, 16, 22, 64, 200)
]


@pytest.mark.parametrize("rule", [remaining_by_time, remaining_evenly, remaining_by_path])
def test_masks_only_fall_and_end_at_none(rule: Callable[[int, int], list[int]]) -> None:
    for masks, steps in SIZES:
        remaining = rule(masks, steps)
        assert len(remaining) == steps
        assert all(type(count) is int for count in remaining)
        assert [masks, *remaining] == sorted([masks, *remaining], reverse=True)
        assert remaining[-1] == 0


def test_time_grid() -> None:
    grid = time_grid(10)
    assert float(grid[0]) == 1
    assert float(grid[-1]) == pytest.approx(END_OF_TIME)
    assert len(grid) == 11


def test_by_time() -> None:
    """Open-dLLM: (num_mask.float() * (1 - s / t)).long(), all of them at the last step."""
    for masks, steps in SIZES:
        grid = time_grid(steps).numpy()
        left, wanted = masks, []
        for step in range(steps):
            one = np.float32(1)
            share = np.float32(left) * (one - grid[step + 1] / grid[step])
            left -= left if step == steps - 1 else int(np.floor(share))
            wanted.append(left)
        assert remaining_by_time(masks, steps) == wanted


def test_by_time_does_nothing_at_first_where_steps_outnumber_masks() -> None:
    remaining = remaining_by_time(4, 64)
    assert remaining[:8] == [4] * 8
    assert 0 < len(set(remaining)) <= 5


def test_evenly() -> None:
    """LLaDA's get_num_transfer_tokens: base everywhere, one more at the first `remainder` steps."""
    for masks, steps in SIZES:
        base, remainder = divmod(masks, steps)
        transfers = [base + (step < remainder) for step in range(steps)]
        assert remaining_evenly(masks, steps) == (masks - np.cumsum(transfers)).tolist()


def test_by_path() -> None:
    """Open-dLLM's p2: (num_positions.float() * (1.0 - kappa)).floor(), kappa a Python number."""
    for masks, steps in SIZES:
        wanted = []
        for step in range(steps):
            kappa = (step + 1) / steps
            wanted.append(int(np.floor(np.float32(masks) * np.float32(1.0 - kappa))))
        assert remaining_by_path(masks, steps) == wanted


def test_by_path_keeps_float32_rounding() -> None:
    """N = S = 22: step 8 leaves 12 masks in float32, 13 in integers; float64 differs at steps 17 and 20."""
    published = [21, 20, 19, 18, 17, 16, 15, 14, 12, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0]
    assert remaining_by_path(22, 22) == published
    assert [22 * (21 - step) // 22 for step in range(22)] != published
    assert [int(22 * (1 - (step + 1) / 22)) for step in range(22)] != published
