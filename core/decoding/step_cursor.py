"""How far each row is: kept on the host, so that the loop needn't ask the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from opendllm.core.decoding.plan import IntArray, Plan, PlannedSteps


class StepCursor:
    """The rows that are being written, each at its own step of its plan.

    Attributes:
        rows: [R] the numbers of these rows.
        forward_passes: [B] that each row of the canvas took part in.
    """

    def __init__(self, plan: Plan, rows: int) -> None:
        self._plan = plan
        self.rows: IntArray = np.arange(rows)
        self._cursor: IntArray = np.zeros(rows, dtype=np.int64)
        self._measured: IntArray = np.full(rows, -1, dtype=np.int64)
        self.forward_passes: IntArray = np.zeros(rows, dtype=np.int64)

    @property
    def unfinished(self) -> NDArray[np.bool_]:
        """[R] whether a row has a step left."""
        return self._cursor < self._plan.lengths[self.rows]

    def drop_finished(self) -> IntArray | None:
        """Forget rows without a step left.

        Returns:
            The positions of those that stay; None where all do.
        """
        unfinished = self.unfinished
        if unfinished.all():
            return None
        kept = np.flatnonzero(unfinished)
        self.rows, self._cursor, self._measured = self.rows[kept], self._cursor[kept], self._measured[kept]
        return kept

    def select_rows(self, rows: IntArray) -> None:
        """Go on with the rows at these positions only, numbered anew; one may be there several times."""
        numbers = self.rows[rows]
        self._plan.select_rows(numbers)
        self.forward_passes = self.forward_passes[numbers]
        self._cursor, self._measured = self._cursor[rows], self._measured[rows]
        self.rows = np.arange(len(rows))

    def finish_rows(self, rows: IntArray) -> None:
        """Leave out what is left of the rows at these positions."""
        self._cursor[rows] = self._plan.lengths[self.rows[rows]]

    def current_steps(self) -> PlannedSteps:
        """[R] each row's current step; a finished row stays at its last."""
        planned = self._plan.at(self.rows, self._cursor)
        return replace(planned, masks=np.where(self._measured >= 0, self._measured, planned.masks))

    def count_passes(self, passes: int, took_part: NDArray[np.bool_]) -> None:
        """Add forward passes to the rows [R] that took part in them."""
        self.forward_passes[self.rows[took_part]] += passes

    def go_on(self) -> None:
        """To each row's next step, as far as anybody knows yet: `learn` tells what the step came to."""
        following = np.where(self.unfinished, self._cursor + 1, self._cursor)
        after_block = self.current_steps().after_block
        self._measured = np.where(following < after_block, self._measured, -1)
        self._cursor = following

    def learn(
        self,
        step: PlannedSteps,
        of: NDArray[np.bool_],
        masks: IntArray | None,
        finished: NDArray[np.bool_] | None,
        stopped: NDArray[np.bool_] | None,
    ) -> None:
        """What an earlier step came to.

        Args:
            step: the step.
            of: [R] bool, the rows that took it.
            masks: [R] how many the row's block had left; None where the plan says so, or nobody asks.
            finished: [R] whether the row's block was done, whatever steps it had left; None where none was.
            stopped: [R] whether the rest of the row can be left out; None where none can.
        """
        cursor = self._cursor
        if finished is not None:
            cursor = np.where(of & finished, np.maximum(cursor, step.after_block), cursor)
        if masks is not None:
            self._measured = np.where(
                of & (cursor < step.after_block), masks, np.where(of, -1, self._measured)
            )
        elif finished is not None:
            self._measured = np.where(of & finished, -1, self._measured)
        if stopped is not None:
            cursor = np.where(of & stopped, self._plan.lengths[self.rows], cursor)
        self._cursor = cursor

    def replace_rows(self, rows: IntArray, sizes: Sequence[Sequence[int]]) -> None:
        """Begin with other rows in place of some, of which none has been dropped yet.

        Args:
            rows: [R] which make way.
            sizes: by new row, how many masks each block has.
        """
        self._plan.replace_rows(rows, sizes)
        self._cursor[rows], self._measured[rows], self.forward_passes[rows] = 0, -1, 0
