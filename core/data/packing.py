"""Which pieces of which documents make up each row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PIECES_AT_ONCE = 1 << 15
"""Rows are made of pieces that lie at most so far apart in the corpus, so that memory stays bounded."""


@dataclass(frozen=True)
class Packing:
    """Rows as pieces of one long token array.

    Attributes:
        starts: [P] int64, where each piece begins in the token array.
        lengths: [P] int32, its length.
        prompts: [P] int32, how many of its first tokens are a prompt.
        row_ends: [R] int64, row r is made of the pieces from row_ends[r - 1] up to row_ends[r].
    """

    starts: NDArray[np.int64]
    lengths: NDArray[np.int32]
    prompts: NDArray[np.int32]
    row_ends: NDArray[np.int64]

    def pieces(self, row: int) -> list[tuple[int, int]]:
        """(start, length) of a row's pieces."""
        span = self.span(row)
        return list(zip(self.starts[span].tolist(), self.lengths[span].tolist(), strict=True))

    def span(self, row: int) -> slice:
        """Which pieces are a row's."""
        return slice(0 if row == 0 else int(self.row_ends[row - 1]), int(self.row_ends[row]))


class Packer:
    """Documents in, rows out, a window of pieces at a time.

    A document longer than a row is cut into pieces; of one with a prompt only what fits into a row
    is kept, since no later piece could see the prompt. Within a window the longest
    piece comes first, each into the fullest row that still has room (best-fit decreasing).
    """

    def __init__(self, row_length: int, one_piece_a_row: bool = False) -> None:
        """Begin.

        Args:
            row_length: tokens in a row.
            one_piece_a_row: no row is shared.
        """
        self._row_length = row_length
        self._one_piece_a_row = one_piece_a_row
        self._pending: list[tuple[int, int, int]] = []
        self._end = 0
        self.shortened = 0
        """Documents with a prompt whose end was cut off."""
        self.dropped = 0
        """Documents whose prompt fills the row, so that nothing is left to learn."""

    def add(self, lengths: NDArray[np.int64], prompts: NDArray[np.int64]) -> Iterator[Packing]:
        """Take documents in, in the order of the token array; gives the windows that are full."""
        for length, prompt in zip(lengths.tolist(), prompts.tolist(), strict=True):
            start, self._end = self._end, self._end + length
            if prompt >= self._row_length:
                self.dropped += 1
            elif prompt:
                self.shortened += length > self._row_length
                self._pending.append((start, min(length, self._row_length), prompt))
            else:
                for cut in range(start, self._end, self._row_length):
                    self._pending.append((cut, min(self._row_length, self._end - cut), 0))
            if len(self._pending) >= PIECES_AT_ONCE:
                yield self._window()

    def finish(self) -> Iterator[Packing]:
        """The last window, where anything is left."""
        if self._pending:
            yield self._window()

    def _window(self) -> Packing:
        starts, lengths, prompts = np.array(self._pending, dtype=np.int64).T
        self._pending.clear()
        rows = (
            [[n] for n in range(len(starts))]
            if self._one_piece_a_row
            else _best_fit(lengths, self._row_length)
        )
        order = np.array([piece for row in rows for piece in row], dtype=np.int64)
        return Packing(
            starts[order],
            lengths[order].astype(np.int32),
            prompts[order].astype(np.int32),
            np.cumsum([len(row) for row in rows], dtype=np.int64),
        )


def _best_fit(lengths: NDArray[np.int64], row_length: int) -> list[list[int]]:
    """Rows of piece numbers. Which rooms are left is kept as the bits of one integer."""
    rows: list[list[int]] = []
    rows_by_room: dict[int, list[int]] = {}
    rooms = 0
    sizes = lengths.tolist()
    for piece in np.argsort(-lengths, kind="stable").tolist():
        length = sizes[piece]
        fitting = rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            number = rows_by_room[room].pop()
            if not rows_by_room[room]:
                rooms ^= 1 << room
        else:
            room, number = row_length, len(rows)
            rows.append([])
        rows[number].append(piece)
        left = room - length
        if left:
            rows_by_room.setdefault(left, []).append(number)
            rooms |= 1 << left
    return rows


def pack(document_ends: NDArray[np.int64], row_length: int) -> Packing:
    """The rows of documents that are all there.

    Args:
        document_ends: [D] ends of the documents in the token array.
        row_length: tokens in a row.
    """
    packer = Packer(row_length)
    lengths = np.diff(document_ends, prepend=0)
    windows = [*packer.add(lengths, np.zeros_like(lengths)), *packer.finish()]
    before = np.cumsum([0, *(window.row_ends[-1] for window in windows[:-1])])
    return Packing(
        np.concatenate([window.starts for window in windows]),
        np.concatenate([window.lengths for window in windows]),
        np.concatenate([window.prompts for window in windows]),
        np.concatenate([window.row_ends + offset for window, offset in zip(windows, before, strict=True)]),
    )
