"""Answers are judged while others are still being written."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import torch
from torch import Tensor

from opendllm.core.foundation.shared_errors import raise_together
from opendllm.core.rewards.weighing import RewardedCompletion
from opendllm.core.rewards.worker import RewardWorker
from opendllm.core.training.reinforcement.answers import Answer
from opendllm.registries.errors import UserError

FULL_MARK = 1.0 - 1e-9


@dataclass(frozen=True)
class Judged:
    """What answers are worth.

    Attributes:
        totals: [n] float64, their weighted sums.
        values: [n, R] float64, of each reward.
        waited: seconds in which nothing but the rewards was at work.
    """

    totals: Tensor
    values: Tensor
    waited: float


@dataclass(frozen=True)
class PendingRewards:
    """Rewards that are on their way.

    Attributes:
        answers: in the order of their numbers.
        labels: of the rewards, in their order.
        submitted: the numbers of some answers, and what they will be worth.
    """

    answers: Sequence[Answer]
    labels: Sequence[str]
    submitted: Sequence[tuple[Sequence[int], Future[list[RewardedCompletion]]]]

    def collect(self) -> Judged:
        """Wait for all of them. Every rank must call this.

        Raises:
            UserError: a reward raised, hung or gave no such values, here or on another rank.
        """
        started = time.perf_counter()
        found: dict[int, RewardedCompletion] = {}
        failure: UserError | None = None
        try:
            for numbers, future in self.submitted:
                found.update(zip(numbers, future.result(), strict=True))
        except UserError as error:
            failure = error
        raise_together(failure)
        ordered = [found[each.question.number] for each in self.answers]
        totals = torch.tensor([each.total for each in ordered], dtype=torch.float64)
        rows = [[each.values[label] for label in self.labels] for each in ordered]
        values = torch.tensor(rows, dtype=torch.float64).view(len(ordered), len(self.labels))
        return Judged(totals, values, time.perf_counter() - started)


@dataclass(frozen=True)
class Judge:
    """Hands answers over as they come.

    Attributes:
        worker: judges them meanwhile.
        labels: of its rewards, in their order.
        at_once: how many answers go together: as many as finish together.
    """

    worker: RewardWorker
    labels: Sequence[str]
    at_once: int

    def pending(self, answers: Iterable[Answer]) -> PendingRewards:
        """Of answers that are being written; when this is over they all are."""
        submitted: list[tuple[Sequence[int], Future[list[RewardedCompletion]]]] = []
        written: list[Answer] = []
        waiting: list[Answer] = []

        def hand_over() -> None:
            numbers = [each.question.number for each in waiting]
            submitted.append((numbers, self.worker.submit([each.completion for each in waiting])))
            waiting.clear()

        for answer in answers:
            written.append(answer)
            waiting.append(answer)
            if len(waiting) >= self.at_once:
                hand_over()
        if waiting:
            hand_over()
        return PendingRewards(sorted(written, key=lambda each: each.question.number), self.labels, submitted)
