"""The one thread that decodes: rows wait, are written side by side, and are told of."""

from __future__ import annotations

import sys
import threading
import traceback
from collections import deque
from collections.abc import Sequence

import torch

from opendllm.core.serving.api_errors import ApiError
from opendllm.core.serving.asked_rows import AskedRow
from opendllm.core.serving.batch import Batch
from opendllm.registries.errors import UserError, first_line

STOPPED = "the server has been stopped: ask again later"


class DecodingThread:
    """Rows in, their events out. Rows of one decoding are written together, whenever they come.

    Batches of different decodings take turns, a step each.
    """

    def __init__(self, most_rows: int, most_waiting: int) -> None:
        """Make ready.

        Args:
            most_rows: written side by side, in all batches together.
            most_waiting: rows that wait beside these.
        """
        self._most_rows, self._most_waiting = most_rows, most_waiting
        self._waiting: deque[AskedRow] = deque()
        self._batches: list[Batch] = []
        self._changed = threading.Condition()
        self._is_stopped = False
        self._thread = threading.Thread(target=self._run, name="decoding", daemon=True)

    @property
    def is_alive(self) -> bool:
        """Whether anything is still decoded."""
        return self._thread.is_alive() and not self._is_stopped

    def start(self) -> None:
        """Begin to decode."""
        self._thread.start()

    def submit(self, rows: Sequence[AskedRow]) -> None:
        """Let rows wait for their turn, all of them or none.

        Raises:
            ApiError: too many wait, or the thread has been stopped.
        """
        with self._changed:
            if not self.is_alive:
                raise ApiError(503, STOPPED)
            self._waiting = deque(asked for asked in self._waiting if not asked.is_cancelled)
            waiting = len(self._waiting)
            if waiting + len(rows) > self._most_waiting:
                raise ApiError(429, f"{waiting} texts are waiting already: ask again later", "queue_full")
            self._waiting.extend(rows)
            self._changed.notify()

    def stop(self) -> None:
        """End at the next step; whoever still waits is told."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify()

    def join(self) -> None:
        """Wait until it has ended."""
        self._thread.join()

    def _run(self) -> None:
        try:
            with torch.no_grad():
                while self._has_work():
                    self._admit()
                    for batch in list(self._batches):
                        self._attempt(batch)
        except BaseException:
            traceback.print_exc()
        finally:
            with self._changed:
                self._is_stopped = True
                left = [*self._waiting, *(asked for batch in self._batches for asked in batch.rows)]
                self._waiting.clear()
            for asked in left:
                asked.tell(ApiError(503, STOPPED))

    def _has_work(self) -> bool:
        """Wait for some; False once stopped."""
        with self._changed:
            while not (self._waiting or self._batches or self._is_stopped):
                self._changed.wait()
            return not self._is_stopped

    def _admit(self) -> None:
        """Waiting rows into batches, as many as there are places, in their order."""
        with self._changed:
            free = self._most_rows - sum(len(batch.rows) for batch in self._batches)
            taken: list[AskedRow] = []
            while self._waiting and len(taken) < free:
                asked = self._waiting.popleft()
                if not asked.is_cancelled:
                    taken.append(asked)
        while taken:
            first = taken[0]
            batch = max((each for each in self._batches if each.takes(first)), key=_length, default=None)
            if batch is None:
                alike = [first] if first.goes_alone else [each for each in taken if _together(each, first)]
                self._begin(alike)
                taken = [each for each in taken if each not in alike]
            else:
                alike = [each for each in taken if batch.takes(each)]
                left = self._joined(batch, alike)
                # A batch whose reader takes no others says so from now on: they get one of their own.
                taken = [each for each in taken if each not in alike or each in left]

    def _begin(self, rows: Sequence[AskedRow]) -> None:
        try:
            self._batches.append(Batch(rows, self._most_rows))
        except Exception as error:
            self._again(rows, error)

    def _joined(self, batch: Batch, rows: Sequence[AskedRow]) -> Sequence[AskedRow]:
        """The rows that found no place."""
        try:
            return batch.join(rows)
        except Exception as error:
            self._drop(batch, error)
            return []

    def _attempt(self, batch: Batch) -> None:
        """A step of a batch."""
        try:
            batch.advance()
            if not batch.rows:
                batch.close()
                self._batches.remove(batch)
        except Exception as error:
            self._drop(batch, error)

    def _drop(self, batch: Batch, error: Exception) -> None:
        self._batches.remove(batch)
        batch.drop(error)
        self._again(batch.rows, error)

    def _again(self, rows: Sequence[AskedRow], error: Exception) -> None:
        """After an error among several rows each is written alone, and only who makes it hears of it.

        What was told of the others is written again, and the same.
        """
        if not rows:
            traceback.print_exception(error)
            return
        if len(rows) == 1:
            rows[0].tell(_answer_to(error))
            return
        if isinstance(error, torch.OutOfMemoryError):
            self._most_rows = max(1, len(rows) // 2)
            print(
                f"warning: {len(rows)} texts side by side don't fit the memory: from now on "
                f"{self._most_rows} are written at a time; start with a smaller --batch-size",
                file=sys.stderr,
            )
        for asked in rows:
            asked.goes_alone = not isinstance(error, torch.OutOfMemoryError)
        with self._changed:
            self._waiting.extendleft(reversed(rows))


def _length(batch: Batch) -> int:
    """The longest batch takes most of those that come, so that shorter ones end and few are left."""
    return batch.length


def _together(row: AskedRow, other: AskedRow) -> bool:
    return row.decoding.key == other.decoding.key and not row.goes_alone


def _answer_to(error: Exception) -> ApiError:
    if isinstance(error, torch.OutOfMemoryError):
        return ApiError(503, "this doesn't fit the memory: ask for fewer tokens")
    if not isinstance(error, UserError):
        traceback.print_exception(error)
    said = (
        first_line(error) if isinstance(error, UserError) else f"{type(error).__name__}: {first_line(error)}"
    )
    return ApiError(500, said)
