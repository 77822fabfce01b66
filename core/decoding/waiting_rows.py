"""Continuous batching: rows that are finished make way for waiting ones, as many at once as memory holds."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from opendllm.core.decoding.decoder import check_options
from opendllm.core.decoding.options import DecoderOptions
from opendllm.core.decoding.row_pool import FinishedRow, RowPool, WaitingRow
from opendllm.core.foundation.notices import warn_once
from opendllm.registries.backbones import DiffusionLM
from opendllm.registries.samplers import Sampler


@dataclass
class KnownMemory:
    """What was found out about a device's memory.

    Attributes:
        positions: that fit it side by side, of canvases as long as those that didn't; None until then.
    """

    positions: int | None = None

    def rows(self, wanted: int, length: int) -> int:
        """How many of so many rows to begin with."""
        return wanted if self.positions is None else max(1, min(wanted, self.positions // length))


@torch.no_grad()
def decode_waiting(
    lm: DiffusionLM,
    waiting: Sequence[WaitingRow],
    rows: int,
    length: int,
    sampler: Sampler,
    options: DecoderOptions,
    memory: KnownMemory | None = None,
) -> Iterator[FinishedRow]:
    """Write rows side by side; each that is finished is given, and the next waiting one takes its place.

    What is written is the same as of each row alone. Where so many don't fit the memory, half as many go on:
    those that aren't written begin anew, and the time that they took counts.

    Args:
        lm: the model.
        waiting: in the order in which they begin.
        rows: so many side by side, at most.
        length: columns of the canvas that they share: no row is longer.
        sampler: decides; one that doesn't edit lengths.
        options: the decoder's.
        memory: what earlier calls found out about it; written to.

    Raises:
        UserError: see `decode`.
        OutOfMemoryError: not even one row fits.
    """
    check_options(lm, sampler, options)
    memory = memory or KnownMemory()
    rows = memory.rows(rows, length)
    padded = any(len(row.ids) < length for row in waiting)
    left = list(waiting)
    while left:
        # Another round for a model whose readers don't take other rows, or with fewer rows.
        first, left = left[:rows], left[rows:]
        pool, began = None, time.perf_counter()
        try:
            pool = RowPool(lm, first, length, sampler, options, padded)
            with pool.run:
                yield from _write_all(pool, left)
        except torch.OutOfMemoryError:
            if len(first) == 1:
                raise
            if pool is None:
                share = (time.perf_counter() - began) / len(first)
                again = [replace(row, seconds=row.seconds + share) for row in first]
            else:
                again = pool.give_up()
            left = [*again, *left]
            rows = len(first) // 2
            memory.positions = rows * length
            warn_once(
                f"decoding: {len(first)} rows of {length} tokens don't fit the memory, so {rows} are written "
                f"side by side: set a smaller batch_size"
            )


def _write_all(pool: RowPool, left: list[WaitingRow]) -> Iterator[FinishedRow]:
    """All rows; those that are taken from `left` are no longer in it."""
    while True:
        yield from pool.finished()
        joined = pool.join(left[: pool.places])
        del left[:joined]
        if joined:
            continue  # one of them may have nothing to be written
        if pool.is_done:
            return
        if not left or not pool.takes_others:
            pool.drop_empty()
        pool.take_step()
