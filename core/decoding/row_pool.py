"""Continuous batching: rows that are finished make way for waiting ones."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from opendllm.core.decoding.decoder import check_options, check_written
from opendllm.core.decoding.decoding_run import DecodingRun
from opendllm.core.decoding.options import DecoderOptions
from opendllm.core.decoding.prepared_rows import PreparedRows, prepare_rows
from opendllm.core.foundation.notices import warn_once
from opendllm.registries.backbones import DiffusionLM
from opendllm.registries.samplers import Sampler


@dataclass(frozen=True)
class WaitingRow:
    """A row that is to be written.

    Attributes:
        number: what it is called.
        ids: its canvas, masks and all.
        seed: of its draws.
    """

    number: int
    ids: Sequence[int]
    seed: int


@dataclass(frozen=True)
class FinishedRow:
    """A row that is written.

    Attributes:
        number: what it is called.
        written: the tokens that stand where masks were.
        committed_at: at which of the row's steps, from 1, each of them was last written.
        forward_passes: that it took part in.
        seconds: its share of the wall time of the steps that it was there for.
    """

    number: int
    written: list[int]
    committed_at: list[int]
    forward_passes: int
    seconds: float


@torch.no_grad()
def decode_waiting(
    lm: DiffusionLM,
    waiting: Sequence[WaitingRow],
    rows: int,
    length: int,
    sampler: Sampler,
    options: DecoderOptions,
) -> Iterator[FinishedRow]:
    """Write rows side by side; each that is finished is given, and the next waiting one takes its place.

    What is written is the same as of each row alone. Where so many don't fit the memory, half as many go on.

    Args:
        lm: the model.
        waiting: in the order in which they begin.
        rows: so many side by side, at most.
        length: columns of the canvas that they share: no row is longer.
        sampler: decides; one that doesn't edit lengths.
        options: the decoder's.

    Raises:
        UserError: see `decode`.
        OutOfMemoryError: not even one row fits.
    """
    check_options(lm, sampler, options)
    padded = any(len(row.ids) < length for row in waiting)
    left = list(waiting)
    while left:
        # Another round for a model whose readers don't take other rows, or with fewer rows.
        first, left = left[:rows], left[rows:]
        pool = None
        try:
            pool = _Pool(lm, first, length, sampler, options, padded)
            with pool.run:
                yield from pool.write(left)
        except torch.OutOfMemoryError:
            if len(first) == 1:
                raise
            left = [*(first if pool is None else pool.unwritten), *left]
            rows = len(first) // 2
            warn_once(
                f"decoding: {len(first)} rows of {length} tokens don't fit the memory, so {rows} are written "
                f"side by side: set a smaller batch_size"
            )


class _Pool:
    """The rows of one run.

    Attributes:
        run: takes their steps.
    """

    def __init__(
        self,
        lm: DiffusionLM,
        first: Sequence[WaitingRow],
        length: int,
        sampler: Sampler,
        options: DecoderOptions,
        padded: bool,
    ) -> None:
        self._lm, self._length, self._sampler, self._options = lm, length, sampler, options
        self._since = time.perf_counter()
        self.run = DecodingRun(lm, self._prepared(first), sampler, options, padded)
        # By row of the run: which waiting row it is; None once that is given.
        self._is: list[WaitingRow | None] = list(first)
        self._seconds = np.zeros(len(first))

    @property
    def unwritten(self) -> list[WaitingRow]:
        """Those that have begun and not been given."""
        return [row for row in self._is if row is not None]

    def write(self, left: list[WaitingRow]) -> Iterator[FinishedRow]:
        """All rows; those that are taken from `left` are no longer in it."""
        takes_others = True
        while True:
            unfinished = self.run.unfinished
            slots = [at for at, row in enumerate(self._is) if row is not None and not unfinished[at]]
            if slots:
                self._share_time()
                yield from self._given(slots)
                self._since = time.perf_counter()
                coming = left[: len(slots)]
                if coming and takes_others:
                    taken = slots[: len(coming)]
                    takes_others = self.run.replace_rows(np.array(taken), self._prepared(coming))
                if coming and takes_others:
                    for slot, row in zip(taken, coming, strict=True):
                        self._is[slot] = row
                    del left[: len(coming)]
                    continue
            if not unfinished.any():
                return
            if not self.run.is_fixed and (not left or not takes_others):
                self._drop()
            self.run.take_step()
            self._share_time()

    def _given(self, slots: list[int]) -> Iterator[FinishedRow]:
        """The rows in these slots, which are empty from now on."""
        self.run.raise_if_not_finite()
        state, cursor = self.run.state, self.run.cursor
        index = torch.tensor(slots, device=state.tokens.device)
        tokens, editable = state.tokens[index], state.editable[index]
        if self._sampler.revises or self.run.is_fixed:
            check_written(editable & (tokens == self._lm.mask_token_id), self._sampler)
        steps = state.committed_at[index].cpu()
        tokens, editable = tokens.cpu(), editable.cpu()
        for slot, ids, at, written in zip(slots, tokens, steps, editable, strict=True):
            row = self._is[slot]
            assert row is not None
            self._is[slot] = None
            passes = int(cursor.forward_passes[cursor.rows[slot]])
            seconds, self._seconds[slot] = float(self._seconds[slot]), 0.0
            yield FinishedRow(row.number, ids[written].tolist(), at[written].tolist(), passes, seconds)

    def _drop(self) -> None:
        kept = self.run.drop_finished()
        if kept is not None:
            self._is = [self._is[at] for at in kept]
            self._seconds = self._seconds[kept]

    def _share_time(self) -> None:
        """What has passed since the last time, evenly among the rows that were there."""
        now = time.perf_counter()
        there = [at for at, row in enumerate(self._is) if row is not None]
        self._seconds[there] += (now - self._since) / max(1, len(there))
        self._since = now

    def _prepared(self, rows: Sequence[WaitingRow]) -> PreparedRows:
        device = next(self._lm.module.parameters()).device
        canvas, real = padded_rows([row.ids for row in rows], self._lm, self._length)
        seeds = torch.tensor([row.seed for row in rows], dtype=torch.int64)
        number = torch.tensor([row.number for row in rows])
        return prepare_rows(
            self._lm,
            canvas.to(device),
            real.to(device),
            seeds.to(device),
            self._sampler,
            self._options,
            number.to(device),
        )


def padded_rows(rows: Sequence[Sequence[int]], lm: DiffusionLM, length: int) -> tuple[Tensor, Tensor]:
    """([B, L] int64, [B, L] bool) rows filled up to a length, and where they are real."""
    filler = next((stop for stop in lm.stops if stop < lm.vocab_size), int(lm.mask_token_id == 0))
    canvas = torch.full((len(rows), length), filler)
    real = torch.zeros(len(rows), length, dtype=torch.bool)
    for row, ids in enumerate(rows):
        canvas[row, : len(ids)] = torch.tensor(ids)
        real[row, : len(ids)] = True
    return canvas, real
