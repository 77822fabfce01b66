"""Rows that grow and shrink while they are written: masks that become two, or none."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

Value = TypeVar("Value", int, float, bool)


def room_to_grow(canvas: Tensor, real: Tensor, growth: int) -> tuple[Tensor, Tensor]:
    """The canvas [B, L] and its `real` positions [B, L] bool, with `growth` columns of padding added."""
    rows = canvas.shape[0]
    return (
        torch.cat([canvas, canvas.new_zeros(rows, growth)], dim=1),
        torch.cat([real, real.new_zeros(rows, growth)], dim=1),
    )


def edited(values: Tensor, expand: Tensor, delete: Tensor, inserted: Value, padding: Value) -> Tensor:
    """[B, L] `values` moved to where a row's edits put them; what falls off the right end is lost.

    Args:
        values: [B, L] of any dtype.
        expand: [B, L] bool, positions that become two.
        delete: [B, L] bool, positions that go.
        inserted: the value at the second of two.
        padding: the value right of a row that has become shorter.
    """
    length = values.shape[1]
    count = 1 + expand.long() - delete.long()
    end = count.cumsum(-1)
    # Positions that go are written to a column beyond the end, like those that fall off it.
    beyond = 2 * length
    moved = values.new_full((values.shape[0], beyond + 1), inserted)
    moved.scatter_(1, torch.where(delete, beyond, end - count), values)
    columns = torch.arange(length, device=values.device)
    return torch.where(columns < end[:, -1:], moved[:, :length], padding)
