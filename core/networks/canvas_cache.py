"""The keys and values of a canvas's columns.

A pass over some columns overwrites their entries and attends to all; which columns, the decoder says. So
Fast-dLLM's prefix and dual caches (arXiv:2505.22618, section 3.2), and the exact ones of causal and
block-causal checkpoints, are one thing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache


class CanvasCache(Cache):
    """Keys and values of all columns, behind transformers' cache interface.

    Attributes:
        columns: [R, Q] int64, where the next pass's entries go; L is nowhere. None for everywhere.
        rows: [R] int64, whose they are; None for all rows.
        seen: of how many columns, the first ones, the entries come back.
    """

    def __init__(self, rows: int, length: int) -> None:
        """Make an empty cache for so many rows of `length` columns."""
        super().__init__(layers=[])
        self.columns: Tensor | None = None
        self.rows: Tensor | None = None
        self.seen = length
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self._rows = rows
        self._length = length

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_args: Any, **_kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Take in a layer's new entries [R, H, Q, K]; these rows' [R, H, seen, K] come back."""
        if layer_idx == len(self.keys):
            self.make_room(layer_idx + 1, key_states, (key_states.shape[1], key_states.shape[3]))
        # A model that is spread over devices has layers elsewhere than what says where their entries go.
        device = key_states.device
        rows = None if self.rows is None else self.rows.to(device)
        columns = None if self.columns is None else self.columns.to(device)
        keys = write_entries(self.keys[layer_idx], key_states, rows, columns, self.seen)
        return keys, write_entries(self.values[layer_idx], value_states, rows, columns, self.seen)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Every column has an entry."""
        return self._length

    def make_room(self, layers: int, like: Tensor, heads: tuple[int, int]) -> None:
        """For the entries of so many layers, the first ones, of `heads` (how many, how wide)."""
        for store in (self.keys, self.values):
            while len(store) < layers:
                # One column more than there are, for what is to go nowhere.
                store.append(like.new_zeros(self._rows, heads[0], self._length + 1, heads[1]))

    def allocate_like(self, other: CanvasCache) -> int:
        """Make room for the entries of all layers, each like another cache's; gives how many bytes."""
        for own, theirs in ((self.keys, other.keys), (self.values, other.values)):
            for store in theirs:
                own.append(store.new_zeros(self._rows, store.shape[1], self._length + 1, store.shape[3]))
        return sum(store.nbytes for store in (*self.keys, *self.values))

    def clear(self, rows: Tensor) -> None:
        """Forget all entries of some rows: masked ones count with a weight of 0, which a NaN survives."""
        for store in (*self.keys, *self.values):
            store.index_fill_(0, rows.to(store.device), 0)

    def select_rows(self, rows: Tensor) -> None:
        """Forget the other rows."""
        self._rows = len(rows)
        self.keys = [keys[rows.to(keys.device)] for keys in self.keys]
        self.values = [values[rows.to(values.device)] for values in self.values]


def write_entries(
    kept: Tensor, new: Tensor, rows: Tensor | None, columns: Tensor | None, seen: int
) -> Tensor:
    """Take in a layer's new entries; what these rows see comes back, [R, H, seen, K].

    Args:
        kept: [B, H, L + 1, K], written over.
        new: [R, H, Q, K].
        rows: [R] int64, whose they are; None for all rows.
        columns: [R, Q] int64, where they go, L is nowhere; None for everywhere.
        seen: how many columns, the first ones, come back.
    """
    chosen = slice(None) if rows is None else rows
    if columns is None:
        kept[chosen, :, :-1] = new
        return new
    numbers = torch.arange(kept.shape[0], device=kept.device) if rows is None else rows
    kept[numbers[:, None], :, columns] = new.transpose(1, 2)
    return kept[chosen, :, :seen]
