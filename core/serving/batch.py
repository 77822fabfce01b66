"""Rows that are written side by side, and what is told of them after each step."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from opendllm.core.decoding.compiled_shapes import REFRESH_WIDTH_MULTIPLE, ROW_LENGTH_MULTIPLE, round_up
from opendllm.core.decoding.row_pool import FinishedRow, RowPool, WaitingRow
from opendllm.core.decoding.tracing import RowCanvas, step_between
from opendllm.core.serving.asked_rows import AskedRow, Canvas, Finished, Piece

MOST_PADDED, SHORT = 2, 128
"""A row joins a canvas of up to so many times its length, or of so many columns: padding takes time, too."""
_NOBODY = -1
"""The number of rows that only keep a place."""
_NUMBERS = itertools.count()


class Batch:
    """Rows of one `Decoding`; each is told of as if it were alone.

    Attributes:
        key: of the decoding.
    """

    def __init__(self, first: Sequence[AskedRow], rows: int) -> None:
        """Begin with some rows.

        Args:
            first: at least one, all of one decoding.
            rows: that may be written side by side, for the places of fixed shapes.
        """
        decoding = first[0].decoding
        self.key = decoding.key
        self._alone = first[0].goes_alone
        self._model, self._sampler = decoding.model, decoding.sampler
        longest = max(len(asked.row.ids) for asked in first)
        multiple = ROW_LENGTH_MULTIPLE if decoding.options.compile else REFRESH_WIDTH_MULTIPLE
        length = round_up(longest, multiple)
        if length > self._model.lm.context_length:
            length = longest
        self._asked: dict[int, AskedRow] = {}
        self._blocks: dict[int, int] = {}
        self._canvases: dict[int, RowCanvas] = {}
        waiting = self._begun(first)
        if decoding.options.compile:
            # Shapes are fixed: what is empty now is for others.
            token = int(self._model.lm.mask_token_id == 0)
            waiting += [WaitingRow(_NOBODY, [token], 0)] * (rows - len(waiting))
        self._pool = RowPool(self._model.lm, waiting, length, self._sampler, decoding.options, padded=True)
        self._entered = ExitStack()
        self._entered.enter_context(self._pool.run)
        try:
            self._pool.leave({_NOBODY})
            self._show(first)
        except Exception as error:
            self.drop(error)
            raise

    @property
    def rows(self) -> list[AskedRow]:
        """Those that are being written."""
        return list(self._asked.values())

    @property
    def length(self) -> int:
        """Columns of its canvas."""
        return self._pool.length

    def takes(self, asked: AskedRow) -> bool:
        """Whether a row goes into it."""
        return (
            asked.decoding.key == self.key
            and not (self._alone or asked.goes_alone)
            and self._pool.has_place
            and len(asked.row.ids) <= self.length <= max(SHORT, MOST_PADDED * len(asked.row.ids))
        )

    def join(self, others: Sequence[AskedRow]) -> Sequence[AskedRow]:
        """Begin with other rows beside these; those that find no place are given back."""
        waiting = self._begun(others)
        joined = self._pool.join(waiting)
        for row in waiting[joined:]:
            del self._asked[row.number]
        self._show(others[:joined])
        return others[joined:]

    def advance(self) -> None:
        """One step of every row."""
        cancelled = [number for number, asked in self._asked.items() if asked.is_cancelled]
        self._pool.leave(set(cancelled))
        self._forget(cancelled)
        if not self._asked:
            return
        self._pool.drop_empty()
        self._pool.take_step()
        self._tell_canvases()
        for done in list(self._pool.finished()):
            self._tell_finished(done)
        self._look()

    def close(self) -> None:
        """When no row is left: what was captured is kept for the next ones."""
        self._entered.close()

    def drop(self, error: Exception) -> None:
        """After an error: nothing of it is kept."""
        self._entered.__exit__(type(error), error, error.__traceback__)

    def _begun(self, rows: Sequence[AskedRow]) -> list[WaitingRow]:
        waiting = []
        for asked in rows:
            number = next(_NUMBERS)
            self._asked[number] = asked
            waiting.append(WaitingRow(number, asked.row.ids, asked.seed))
        return waiting

    def _forget(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            del self._asked[number]
            self._blocks.pop(number, None)
            self._canvases.pop(number, None)

    def _look(self) -> None:
        """At the text of those rows of which more may have settled, and somebody wants to know."""
        blocks = self._pool.blocks()
        by_block = self._sampler.revises or self._model.lm.noise.schedule is not None
        wanted = {
            number
            for number, asked in self._asked.items()
            if not asked.shows_canvases
            and (
                blocks[number] != self._blocks.get(number, 0)
                or (not by_block and (asked.streams or asked.has_stops))
            )
        }
        self._blocks = blocks
        ended = []
        for number, tokens in self._pool.settled(wanted).items():
            asked = self._asked[number]
            kept = tokens[: asked.length]
            piece, ending = asked.text.look(kept)
            if piece and asked.streams:
                asked.tell(Piece(piece))
            if ending is not None:
                asked.tell(Finished(ending, None))
                ended.append(number)
        self._pool.leave(set(ended))
        self._forget(ended)

    def _tell_finished(self, done: FinishedRow) -> None:
        asked = self._asked[done.number]
        written = done.written[: len(done.written) - asked.row.surplus]
        piece, ending = asked.text.end(written)
        if piece and asked.streams:
            asked.tell(Piece(piece))
        asked.tell(Finished(ending, done.forward_passes))
        self._forget([done.number])

    def _show(self, begun: Sequence[AskedRow]) -> None:
        """The canvas before the first step."""
        numbers = {number for number, asked in self._asked.items() if asked.shows_canvases and asked in begun}
        for number, canvas in self._pool.canvases(numbers).items():
            self._canvases[number] = canvas
            self._asked[number].tell(Canvas(canvas, None))

    def _tell_canvases(self) -> None:
        found: Mapping[int, RowCanvas] = self._pool.canvases(set(self._canvases))
        for number, canvas in found.items():
            step = step_between(self._canvases[number], canvas, self._model.lm.mask_token_id)
            self._canvases[number] = canvas
            self._asked[number].tell(Canvas(None, step))
