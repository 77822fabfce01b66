"""Answers are judged while others are still being written."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import torch
from torch import Tensor

from opendllm.core.rewards.weighing import RewardedCompletion
from opendllm.core.rewards.worker import RewardWorker
from opendllm.core.training.reinforcement.answers import Answer

FULL_MARK = 1.0 - 1e-9


@dataclass(frozen=True)
class Judged:
    """Answers, and what they are worth.

    Attributes:
        answers: in the order of their numbers.
        totals: [n] float64, their weighted sums.
        values: [n, R] float64, of each reward.
        waited: seconds in which nothing but the rewards was at work.
    """

    answers: Sequence[Answer]
    totals: Tensor
    values: Tensor
    waited: float


def judged(
    answers: Iterable[Answer], worker: RewardWorker, names: Sequence[str], at_once: int
) -> tuple[list[Answer], PendingRewards]:
    """Hand answers over as they come, `at_once` at a time; gives them in the order of their numbers.

    Args:
        answers: as they are written.
        worker: judges them meanwhile.
        names: of the rewards, in their order.
        at_once: how many go together.
    """
    pending = PendingRewards(worker, names)
    written: list[Answer] = []
    waiting: list[Answer] = []
    for answer in answers:
        written.append(answer)
        waiting.append(answer)
        if len(waiting) >= at_once:
            pending.submit(waiting)
            waiting = []
    if waiting:
        pending.submit(waiting)
    return sorted(written, key=lambda each: each.question.number), pending


class PendingRewards:
    """Rewards that are on their way."""

    def __init__(self, worker: RewardWorker, names: Sequence[str]) -> None:
        self._worker = worker
        self._names = names
        self._submitted: list[tuple[list[int], Future[list[RewardedCompletion]]]] = []

    def submit(self, answers: Sequence[Answer]) -> None:
        """Hand some answers over."""
        numbers = [each.question.number for each in answers]
        future = self._worker.submit([each.completion for each in answers])
        self._submitted.append((numbers, future))

    def collect(self, answers: Sequence[Answer]) -> Judged:
        """Wait for all of them.

        Args:
            answers: those that were handed over, in the order of their numbers.

        Raises:
            RewardFailedError: a reward raised, hung or gave no such values.
        """
        started = time.perf_counter()
        found: dict[int, RewardedCompletion] = {}
        for numbers, future in self._submitted:
            found.update(zip(numbers, future.result(), strict=True))
        ordered = [found[each.question.number] for each in answers]
        totals = torch.tensor([each.total for each in ordered], dtype=torch.float64)
        rows = [[each.values[name] for name in self._names] for each in ordered]
        values = torch.tensor(rows, dtype=torch.float64).view(len(ordered), len(self._names))
        return Judged(answers, totals, values, time.perf_counter() - started)
