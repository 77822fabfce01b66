"""Which pieces of which documents make up each row."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Packing:
    """Rows as pieces of one long token array.

    Attributes:
        starts: [P] int64, where each piece begins in the token array.
        lengths: [P] int64, its length.
        row_ends: [R] int64, row r is made of the pieces from row_ends[r - 1] up to row_ends[r].
    """

    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    row_ends: NDArray[np.int64]

    def pieces(self, row: int) -> list[tuple[int, int]]:
        """(start, length) of a row's pieces."""
        first = 0 if row == 0 else int(self.row_ends[row - 1])
        last = int(self.row_ends[row])
        return [
            (int(start), int(length))
            for start, length in zip(self.starts[first:last], self.lengths[first:last], strict=True)
        ]


def pack(document_ends: NDArray[np.int64], row_length: int) -> Packing:
    """Cut documents into pieces of at most a row, and put the pieces into rows.

    Longest first, each into the fullest row that still has room (best-fit decreasing).

    Args:
        document_ends: [D] ends of the documents in the token array.
        row_length: tokens in a row.
    """
    pieces = []
    start = 0
    for end in document_ends.tolist():
        for cut in range(start, end, row_length):
            pieces.append((cut, min(row_length, end - cut)))
        start = end
    pieces.sort(key=lambda piece: (-piece[1], piece[0]))
    rows: list[list[tuple[int, int]]] = []
    rows_by_room: dict[int, list[int]] = {}
    for piece in pieces:
        length = piece[1]
        room = next((room for room in range(length, row_length + 1) if rows_by_room.get(room)), None)
        if room is None:
            number, room = len(rows), row_length
            rows.append([])
        else:
            number = heapq.heappop(rows_by_room[room])
        rows[number].append(piece)
        heapq.heappush(rows_by_room.setdefault(room - length, []), number)
    flat = [piece for row in rows for piece in row]
    return Packing(
        np.array([start for start, _ in flat], dtype=np.int64),
        np.array([length for _, length in flat], dtype=np.int64),
        np.cumsum([len(row) for row in rows], dtype=np.int64),
    )
