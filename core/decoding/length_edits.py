"""Rows that grow and shrink while they are written: positions that are put in, or taken out."""

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


def within_room(insert: Tensor, room: Tensor) -> Tensor:
    """[B, L] bool: `insert` [B, L] bool without the rightmost ones that a row has no `room` [B] for."""
    return insert & (insert.cumsum(-1) <= room[:, None])


def edited(
    values: Tensor, insert: Tensor, delete: Tensor, inserted: Value | Tensor, padding: Value
) -> Tensor:
    """[B, L] `values` moved to where a row's edits put them; what falls off the right end is lost.

    Args:
        values: [B, L] of any dtype.
        insert: [B, L] bool, positions right of which one is put in.
        delete: [B, L] bool, positions that go.
        inserted: what is put in: one value for all, or [B, L], each right of its position.
        padding: the value right of a row that has become shorter.
    """
    length = values.shape[1]
    count = 1 + insert.long() - delete.long()
    end = count.cumsum(-1)
    # Positions that go are written to a column beyond the end, like those that fall off it.
    beyond = 2 * length
    moved = values.new_zeros(values.shape[0], beyond + 1)
    moved.scatter_(1, torch.where(delete, beyond, end - count), values)
    put_in = inserted if isinstance(inserted, Tensor) else torch.full_like(values, inserted)
    moved.scatter_(1, torch.where(insert, end - 1, beyond), put_in)
    columns = torch.arange(length, device=values.device)
    return torch.where(columns < end[:, -1:], moved[:, :length], padding)
