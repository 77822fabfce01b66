"""Row n of a run: a pure function of the seed and n."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

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
        for place, sample in enumerate(sample_indices):
            column = 0
            for number, (start, length) in enumerate(self._packing.pieces(self._row(sample))):
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

    def _row(self, sample: int) -> int:
        epoch, place = divmod(sample, len(self))
        if self._seed is None:
            return place
        return permuted(place, len(self), self._seed, epoch)


def permuted(place: int, size: int, seed: int, epoch: int) -> int:
    """Where a pseudo-random permutation of 0 ... size - 1 sends `place`, without a table.

    A four-round Feistel network on the next even number of bits; results outside the range are
    permuted again until one is inside (Black and Rogaway 2002, "cycle walking").
    """
    half = max(1, (max(1, size - 1).bit_length() + 1) // 2)
    low = (1 << half) - 1
    key = stream_id("row-order")
    while True:
        left, right = place >> half, place & low
        for round_number in range(_ROUNDS):
            mixed = int(hash_address(seed, key, epoch, round_number, right)) & low
            left, right = right, left ^ mixed
        place = (left << half) | right
        if place < size:
            return place
