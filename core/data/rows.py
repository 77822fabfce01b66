"""Row n of a run: a pure function of the seed and n."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from opendllm.core.data.packing import Packing
from opendllm.core.toolkit.draws import hash_address, hash_on, stream_id
from opendllm.registries.errors import UserError
from opendllm.registries.sequences import PADDING_SEGMENT, TokenRows

_ROUNDS = 4


class Rows(Protocol):
    """Row n of a run, for every n."""

    def __len__(self) -> int:
        """How many different ones there are."""

    def batch(self, sample_indices: Sequence[int]) -> TokenRows:
        """The rows of these global sample indices; they count on from epoch to epoch."""


class PackedRows:
    """The rows of one split, in a shuffled order that differs from epoch to epoch."""

    def __init__(
        self,
        tokens: NDArray[np.uint32],
        packing: Packing,
        row_length: int,
        filler_id: int,
        seed: int | None,
        filler_is_learnt: bool = False,
    ) -> None:
        """Name the split and the order.

        Args:
            tokens: all its documents' ids.
            packing: its rows.
            row_length: L.
            filler_id: the token after the row's last document.
            seed: of the order; None keeps the rows as they are.
            filler_is_learnt: the filler belongs to that document, as LLaDA's SFT has it with EOS; else
                it is padding.
        """
        self._tokens = tokens
        self._packing = packing
        self.row_length = row_length
        self.filler_id = filler_id
        self._seed = seed
        self._filler_is_learnt = filler_is_learnt

    def __len__(self) -> int:
        return len(self._packing.row_ends)

    def batch(self, sample_indices: Sequence[int]) -> TokenRows:
        """See `Rows.batch`."""
        buffer = BatchBuffer(len(sample_indices), self.row_length, self.filler_id)
        self.fill(buffer, range(len(sample_indices)), sample_indices)
        return buffer.rows(sample_indices)

    def fill(self, buffer: BatchBuffer, batch_rows: Sequence[int], samples: Sequence[int]) -> None:
        """Write this corpus's rows into a batch.

        Args:
            buffer: the batch.
            batch_rows: which of its rows.
            samples: which of this corpus's own samples goes into each.
        """
        for batch_row, row in zip(batch_rows, self._rows(samples), strict=True):
            span = self._packing.span(row)
            pieces = zip(
                self._packing.starts[span].tolist(),
                self._packing.lengths[span].tolist(),
                self._packing.prompts[span].tolist(),
                strict=True,
            )
            column = 0
            for number, (start, length, prompt) in enumerate(pieces):
                buffer.tokens[batch_row, column : column + length] = self._tokens[start : start + length]
                end = self.row_length if self._filler_is_learnt else column + length
                buffer.segments[batch_row, column:end] = number
                buffer.positions[batch_row, column:end] = np.arange(end - column)
                buffer.maskable[batch_row, column + prompt : end] = True
                column += length

    def _rows(self, sample_indices: Sequence[int]) -> list[int]:
        samples = torch.tensor(list(sample_indices), dtype=torch.int64)
        epochs, indices = samples // len(self), samples % len(self)
        if self._seed is not None:
            indices = permuted(indices, len(self), self._seed, epochs)
        return indices.tolist()


class BatchBuffer:
    """A batch while its rows are written: arrays of the fields of `TokenRows`, each [B, L].

    A row that nobody fills is padding.
    """

    def __init__(self, rows: int, row_length: int, filler_id: int) -> None:
        shape = (rows, row_length)
        self.tokens = np.full(shape, filler_id, dtype=np.int64)
        self.segments = np.full(shape, PADDING_SEGMENT, dtype=np.int64)
        self.positions = np.zeros(shape, dtype=np.int64)
        self.maskable = np.zeros(shape, dtype=np.bool_)

    def rows(self, sample_indices: Sequence[int]) -> TokenRows:
        """As tensors that share this memory, with the sample indices that address their noise."""
        return TokenRows(
            torch.from_numpy(self.tokens),
            torch.from_numpy(self.segments),
            torch.from_numpy(self.positions),
            torch.from_numpy(self.maskable),
            torch.tensor(list(sample_indices), dtype=torch.int64),
        )


class MixedRows:
    """Rows of several corpora, each as often as its weight says.

    Of every `PERIOD` samples each corpus has its exact share, in a shuffled order; a corpus that is
    used up begins again. Which corpus sample n comes from is a pure function of the seed and n.
    """

    PERIOD = 1000

    def __init__(self, parts: Sequence[PackedRows], weights: Sequence[float], seed: int) -> None:
        """Mix.

        Args:
            parts: the corpora's rows, of one length.
            weights: positive, one a corpus.
            seed: of the order.

        Raises:
            UserError: see `shares`.
        """
        self._parts = parts
        self._seed = seed
        self._counts = torch.from_numpy(self.shares(weights))
        self._firsts = self._counts.cumsum(0) - self._counts

    @classmethod
    def shares(cls, weights: Sequence[float]) -> NDArray[np.int64]:
        """How many of every `PERIOD` samples each corpus has.

        Raises:
            UserError: a weight is so small that its corpus would never be read.
        """
        exact = np.array(weights) / sum(weights) * cls.PERIOD
        counts = np.floor(exact).astype(np.int64)
        largest_rests = np.argsort(counts - exact, kind="stable")
        counts[largest_rests[: cls.PERIOD - int(counts.sum())]] += 1
        if not counts.all():
            smallest = sum(weights) / cls.PERIOD
            raise UserError(f"a weight in data.mixture is below 1/{cls.PERIOD} of their sum ({smallest:g})")
        return counts

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def batch(self, sample_indices: Sequence[int]) -> TokenRows:
        """See `Rows.batch`."""
        samples = torch.tensor(list(sample_indices), dtype=torch.int64)
        period, index = samples // self.PERIOD, samples % self.PERIOD
        slot = permuted(index, self.PERIOD, self._seed, period, stream="mixture-order")
        part = torch.searchsorted(self._firsts, slot, right=True) - 1
        own = period * self._counts[part] + slot - self._firsts[part]
        buffer = BatchBuffer(len(samples), self._parts[0].row_length, self._parts[0].filler_id)
        for number, rows in enumerate(self._parts):
            chosen = (part == number).nonzero().squeeze(1)
            rows.fill(buffer, chosen.tolist(), own[chosen].tolist())
        return buffer.rows(sample_indices)


def permuted(indices: Tensor, size: int, seed: int, epochs: Tensor, stream: str = "row-order") -> Tensor:
    """Where each epoch's pseudo-random permutation of 0 ... size - 1 sends `indices`, without a table.

    A four-round Feistel network on the next even number of bits; what falls outside the range is
    permuted again until it is inside (Black and Rogaway 2002, "cycle walking").

    Args:
        indices: [N] int64 in the range.
        size: of the range.
        seed: of the order.
        epochs: [N] int64; each epoch has a permutation of its own.
        stream: what it is for; each use has permutations of its own.
    """
    half = max(1, (max(1, size - 1).bit_length() + 1) // 2)
    low = (1 << half) - 1
    permutation = hash_address(seed, stream_id(stream), epochs)
    keys = torch.stack([hash_on(permutation, round_number) for round_number in range(_ROUNDS)])
    sent, outside = indices.clone(), torch.ones_like(indices, dtype=torch.bool)
    while bool(outside.any()):
        left, right = sent[outside] >> half, sent[outside] & low
        for key in keys[:, outside]:
            left, right = right, left ^ (hash_on(key, right) & low)
        sent[outside] = (left << half) | right
        outside = sent >= size
    return sent
