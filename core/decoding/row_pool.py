"""Rows that are written side by side, each at its own step: others join and leave between two steps."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from opendllm.core.decoding.decoder import check_written
from opendllm.core.decoding.decoding_run import DecodingRun
from opendllm.core.decoding.options import DecoderOptions
from opendllm.core.decoding.prepared_rows import PreparedRows, prepare_rows
from opendllm.core.decoding.tracing import RowCanvas
from opendllm.registries.backbones import DiffusionLM
from opendllm.registries.samplers import Sampler


@dataclass(frozen=True)
class WaitingRow:
    """A row that is to be written.

    Attributes:
        number: what it is called.
        ids: its canvas, masks and all.
        seed: of its draws.
        seconds: that it has taken already, where it begins anew.
    """

    number: int
    ids: Sequence[int]
    seed: int
    seconds: float = 0.0


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


class RowPool:
    """Rows that are written side by side, each at its own step; others join between two steps.

    Attributes:
        run: takes their steps; a context to be entered.
        length: columns of the canvas: no row is longer.
        takes_others: whether others can join; not where rows grow or shrink, nor for some models' readers.
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
        """Begin with some rows.

        Args:
            lm: the model.
            first: at least one.
            length: of the canvas.
            sampler: decides.
            options: the decoder's; they go with the model, see `check_options`.
            padded: whether one of these rows, or of those that will join, is shorter than the canvas.
        """
        self._lm, self._sampler, self._options = lm, sampler, options
        self.length = length
        self.takes_others = not sampler.edits_length
        self._since = time.perf_counter()
        self.run = DecodingRun(lm, self._prepared(first), sampler, options, padded)
        # By row of the run: which waiting row it is; None once that is given.
        self._is: list[WaitingRow | None] = list(first)
        self._seconds = np.array([row.seconds for row in first])

    @property
    def unwritten(self) -> list[WaitingRow]:
        """Those that have begun and are not given."""
        return [row for row in self._is if row is not None]

    def give_up(self) -> list[WaitingRow]:
        """Those that have begun and are not given, to begin anew, with what they have taken."""
        self._share_time()
        both = zip(self._is, self._seconds.tolist(), strict=True)
        return [replace(row, seconds=seconds) for row, seconds in both if row is not None]

    @property
    def places(self) -> int:
        """How many rows were given, whose places are empty."""
        return self._is.count(None)

    @property
    def has_place(self) -> bool:
        """Whether one more row could join."""
        return self.takes_others and (not self.run.is_fixed or None in self._is)

    @property
    def is_done(self) -> bool:
        """Whether no row has a step left."""
        return not self.run.unfinished.any()

    def take_step(self) -> None:
        """One step of every row that has one left."""
        self.run.take_step()
        self._share_time()

    def finished(self) -> Iterator[FinishedRow]:
        """Give the rows that are finished; their places are empty from now on."""
        unfinished = self.run.unfinished
        slots = [at for at, row in enumerate(self._is) if row is not None and not unfinished[at]]
        if slots:
            self._share_time()
            yield from self._given(slots)
            self._since = time.perf_counter()

    def join(self, rows: Sequence[WaitingRow]) -> int:
        """Begin with others, in empty places first.

        Returns:
            How many: none where they can't, and no more than there are places where shapes are fixed.
        """
        if not rows or not self.takes_others:
            return 0
        slots = [at for at, row in enumerate(self._is) if row is None][: len(rows)]
        before = len(self._is)
        if self.run.is_fixed:
            rows = rows[: len(slots)]
        elif len(slots) < len(rows):
            # Copies of a row make the places.
            slots += range(before, before + len(rows) - len(slots))
            self._select([*range(before), *[0] * (slots[-1] + 1 - before)])
        if rows and not self.run.replace_rows(np.array(slots), self._prepared(rows)):
            self.takes_others = False
            if len(self._is) > before:
                self._select(range(before))
            return 0
        for slot, row in zip(slots, rows, strict=True):
            self._is[slot], self._seconds[slot] = row, row.seconds
        return len(rows)

    def leave(self, numbers: Set[int]) -> None:
        """Write no more of these rows: their places are empty from now on."""
        slots = [at for at, row in enumerate(self._is) if row is not None and row.number in numbers]
        if slots:
            self.run.finish_rows(np.array(slots))
            for slot in slots:
                self._is[slot] = None

    def drop_empty(self) -> None:
        """Read no more of rows that were given; where shapes are fixed they stay, and aren't read."""
        unfinished = self.run.unfinished
        if not self.run.is_fixed and unfinished.any() and not unfinished.all():
            self._select(np.flatnonzero(unfinished).tolist())

    def blocks(self) -> dict[int, int]:
        """By number of a row that is being written: the block that it is at."""
        at = self.run.cursor.current_steps().block
        return {row.number: int(at[slot]) for slot, row in enumerate(self._is) if row is not None}

    def settled(self, numbers: Set[int]) -> dict[int, list[int]]:
        """By row: the tokens at the front of its gap that can't change any more."""
        slots = [at for at, row in enumerate(self._is) if row is not None and row.number in numbers]
        if not slots or self._sampler.edits_length:
            return {}
        state = self.run.state
        index = torch.tensor(slots, device=state.tokens.device)
        tokens, editable = state.tokens[index], state.editable[index]
        if self._sampler.revises or self._lm.noise.schedule is not None:
            block = torch.from_numpy(self.run.cursor.current_steps().block[slots])
            is_open = state.block_of[index] >= block.to(index.device)[:, None]
        else:
            is_open = tokens == self._lm.mask_token_id
        front = editable & ((editable & is_open).long().cumsum(-1) == 0)
        tokens, front = tokens.cpu(), front.cpu()
        found = {}
        for slot, ids, settled in zip(slots, tokens, front, strict=True):
            row = self._is[slot]
            assert row is not None
            found[row.number] = ids[settled].tolist()
        return found

    def canvases(self, numbers: Set[int]) -> dict[int, RowCanvas]:
        """By row, as it stands, what a trace is made of."""
        state, found = self.run.state, {}
        for slot, row in enumerate(self._is):
            if row is not None and row.number in numbers:
                real = state.real[slot]
                found[row.number] = RowCanvas(
                    state.tokens[slot][real].tolist(),
                    state.confidence[slot][real].tolist(),
                    state.origin[slot][real].tolist(),
                )
        return found

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

    def _select(self, slots: Sequence[int]) -> None:
        """Go on with these slots, any of which may be there several times: its copies are empty."""
        chosen = np.array(slots)
        self.run.select_rows(chosen)
        first = dict(zip(reversed(slots), reversed(range(len(slots))), strict=True))
        self._is = [self._is[slot] if first[slot] == at else None for at, slot in enumerate(slots)]
        self._seconds = self._seconds[chosen]

    def _share_time(self) -> None:
        """What has passed since the last time, evenly among the rows that were there."""
        now = time.perf_counter()
        there = [at for at, row in enumerate(self._is) if row is not None]
        self._seconds[there] += (now - self._since) / max(1, len(there))
        self._since = now

    def _prepared(self, rows: Sequence[WaitingRow]) -> PreparedRows:
        device = next(self._lm.module.parameters()).device
        canvas, real = padded_rows([row.ids for row in rows], self._lm, self.length)
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
