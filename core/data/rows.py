"""Row n of a run: a pure function of the seed and n."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from opendllm.core.data.packing import Packing
from opendllm.core.toolkit.draws import hash_address, stream_id
from opendllm.registries.sequences import PADDING_SEGMENT, TokenRows

_ROUNDS = 4


class PackedRows:
    """The rows of one split, in a shuffled order that differs from epoch to epoch."""

    def __init__(
        self,
        tokens: NDArray[np.uint32],
        packing: Packing,
        row_length: int,
        filler_id: int,
        seed: int | None,
    ) -> None:
        """Take the split in.

        Args:
            tokens: all its documents' ids.
            packing: its rows.
            row_length: L.
            filler_id: stands on padding.
            seed: of the order; None keeps the rows as they are.
        """
        self._tokens = tokens
        self._packing = packing
        self._row_length = row_length
        self._filler_id = filler_id
        self._seed = seed

    def __len__(self) -> int:
        return len(self._packing.row_ends)

    def batch(self, sample_indices: Sequence[int]) -> TokenRows:
        """The rows of these global sample indices; they count on from epoch to epoch."""
        shape = (len(sample_indices), self._row_length)
        tokens = np.full(shape, self._filler_id, dtype=np.int64)
        segments = np.full(shape, PADDING_SEGMENT, dtype=np.int64)
        positions = np.zeros(shape, dtype=np.int64)
        for place, row in enumerate(self._rows(sample_indices)):
            column = 0
            for number, (start, length) in enumerate(self._packing.pieces(row)):
                span = slice(column, column + length)
                tokens[place, span] = self._tokens[start : start + length]
                segments[place, span] = number
                positions[place, span] = np.arange(length)
                column += length
        as_tensor = torch.from_numpy(segments)
        return TokenRows(
            torch.from_numpy(tokens),
            as_tensor,
            torch.from_numpy(positions),
            as_tensor != PADDING_SEGMENT,
            torch.tensor(list(sample_indices), dtype=torch.int64),
        )

    def _rows(self, sample_indices: Sequence[int]) -> list[int]:
        samples = torch.tensor(list(sample_indices), dtype=torch.int64)
        epochs, places = samples // len(self), samples % len(self)
        if self._seed is not None:
            places = permuted(places, len(self), self._seed, epochs)
        return places.tolist()


def permuted(places: Tensor, size: int, seed: int, epochs: Tensor) -> Tensor:
    """Where each epoch's pseudo-random permutation of 0 ... size - 1 sends `places`, without a table.

    A four-round Feistel network on the next even number of bits; what falls outside the range is
    permuted again until it is inside (Black and Rogaway 2002, "cycle walking").

    Args:
        places: [N] int64 in the range.
        size: of the range.
        seed: of the order.
        epochs: [N] int64; each epoch has a permutation of its own.
    """
    half = max(1, (max(1, size - 1).bit_length() + 1) // 2)
    low = (1 << half) - 1
    key = stream_id("row-order")
    sent, outside = places.clone(), torch.ones_like(places, dtype=torch.bool)
    while bool(outside.any()):
        left, right = sent[outside] >> half, sent[outside] & low
        for round_number in range(_ROUNDS):
            mixed = hash_address(seed, key, epochs[outside], round_number, right) & low
            left, right = right, left ^ mixed
        sent[outside] = (left << half) | right
        outside = sent >= size
    return sent
