"""Numbers of a phase's terms, kept so that any other cut into micro-batches and ranks finds them again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from opendllm.registries.policies import PolicyReading


@dataclass(frozen=True)
class TermValues:
    """One number for each term of some answers' readings.

    They lie answer by answer, of each by its tokens, of each token in the order in which it is read: a
    policy objective gives an answer the same terms whatever stands beside it.

    Attributes:
        values: [T] float64, on the CPU.
        counts: [B] int64, how many each answer has.
    """

    values: Tensor
    counts: Tensor

    @classmethod
    def of(
        cls, readings: Sequence[PolicyReading], found: Sequence[Tensor], rows: Tensor, answers: int
    ) -> TermValues:
        """Of one micro-batch.

        Args:
            readings: all that there are of it.
            found: [M] of each reading's terms.
            rows: [B'] int64, which answers it has; they ascend.
            answers: how many there are in all; the others have no terms here.
        """
        row = torch.cat([each.row for each in readings])
        values = torch.cat(list(found))[_order(readings)]
        counts = torch.zeros(answers, dtype=torch.int64)
        counts[rows] = torch.bincount(row, minlength=len(rows)).cpu()
        return cls(values.cpu().double(), counts)

    @classmethod
    def joined(cls, parts: Sequence[TermValues]) -> TermValues:
        """Of several micro-batches of the same answers, one after the other."""
        counts = torch.stack([part.counts for part in parts]).sum(0)
        return cls(torch.cat([part.values for part in parts]), counts)

    def of_answers(self, numbers: Tensor) -> TermValues:
        """Only of the answers `numbers` [B'] int64, which ascend."""
        chosen = torch.zeros(len(self.counts), dtype=torch.bool)
        chosen[numbers] = True
        return TermValues(self.values[chosen.repeat_interleave(self.counts)], self.counts[numbers])

    def of_readings(self, readings: Sequence[PolicyReading]) -> list[Tensor]:
        """[M] of each reading's terms, on its device: the other way round from `of`."""
        order = _order(readings)
        spread = torch.empty_like(self.values.to(order.device))
        spread[order] = self.values.to(order.device)
        return list(spread.split([len(each.row) for each in readings]))


def _order(readings: Sequence[PolicyReading]) -> Tensor:
    """[T] int64: the terms of all readings, sorted by answer and token; those of one token stay in order."""
    row = torch.cat([each.row for each in readings])
    column = torch.cat([each.column for each in readings])
    return torch.argsort(row * (int(column.amax()) + 1 if len(column) else 1) + column, stable=True)
