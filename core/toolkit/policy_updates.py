"""A policy objective and a model's module: log-probabilities, and one reading's part of an update's loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from opendllm.registries.backbones import JointLoss
from opendllm.registries.policies import FixedTerms, PolicyLosses, PolicyObjective, PolicyReading

KL_OUTLIER = 10.0
"""Above it one term's KL estimate tells little of the others'."""


@torch.no_grad()
def log_probabilities(module: nn.Module, reading: PolicyReading) -> Tensor:
    """[M] float64, of the reading's terms, under a model: of the policy of before, or a reference.

    Args:
        module: a `DiffusionLM`'s, or an engine around it.
        reading: what it reads.
    """
    found: list[Tensor] = []

    def of(nll: Tensor) -> Tensor:
        found.append(reading.log_probabilities(nll))
        return nll.sum() * 0

    module(reading.inputs, reading.targets, reading.scored, JointLoss(of, reading.guidance_scale))
    [terms] = found
    return terms


@dataclass(frozen=True)
class PolicyStatistics:
    """What was seen in some readings, as sums that add up over readings and processes.

    Attributes:
        sums: [6] float64: terms; those whose gradient the ratio's lower bound holds back, those of its upper
            one; KL estimates, NaN where there is no penalty; how many of these are above `KL_OUTLIER`, and
            the sum of the others.
    """

    sums: Tensor

    @classmethod
    def of(cls, losses: PolicyLosses) -> PolicyStatistics:
        """Those of one reading."""
        kl = torch.full_like(losses.loss, torch.nan) if losses.kl is None else losses.kl.detach()
        above = kl > KL_OUTLIER
        columns = [
            torch.ones_like(losses.loss), losses.clipped_low, losses.clipped_high,
            kl, above, kl.where(~above, 0.0),
        ]  # fmt: skip
        return cls(torch.stack([column.detach().double().sum() for column in columns]))

    @classmethod
    def joined(cls, parts: Sequence[PolicyStatistics]) -> PolicyStatistics:
        """Of all readings of a process."""
        return cls(torch.stack([part.sums for part in parts]).sum(0))

    def means(self) -> dict[str, float]:
        """By the names of train.jsonl: shares of terms that are clipped, the mean KL estimate, the share of
        terms whose estimate is an outlier, and the mean of the others.
        """
        terms, low, high, kl, above, others = self.sums.tolist()
        number = max(1.0, terms)
        found = {
            "clip_fraction": (low + high) / number,
            "clip_fraction_low": low / number,
            "clip_fraction_high": high / number,
        }
        if kl != kl:
            return found
        return {
            **found,
            "kl": kl / number,
            "kl_outlier_fraction": above / number,
            "kl_without_outliers": others / max(1.0, terms - above),
        }


class PolicyUpdate:
    """One reading's part of an update: `loss_part` goes to the module, and `statistics` are there afterwards.

    Attributes:
        statistics: of the last time that the module asked for the loss; None before.
    """

    def __init__(
        self,
        objective: PolicyObjective,
        reading: PolicyReading,
        fixed: FixedTerms,
        count: float,
        on_policy: bool = False,
    ) -> None:
        """Put it together.

        Args:
            objective: that the reading is of.
            reading: what the module reads.
            fixed: its terms'.
            count: what the loss sum is divided by: the counts of all readings of the global batch.
            on_policy: whether the policy of now wrote the answers: `fixed.old` is then not read, and every
                ratio is 1.
        """
        self._objective = objective
        self._reading = reading
        self._fixed = fixed
        self._count = count
        self._on_policy = on_policy
        self.statistics: PolicyStatistics | None = None

    @property
    def loss_part(self) -> JointLoss:
        """What the module takes."""
        return JointLoss(self._loss, self._reading.guidance_scale)

    def _loss(self, negative_log_likelihood: Tensor) -> Tensor:
        reading = self._reading
        new = reading.log_probabilities(negative_log_likelihood)
        fixed = replace(self._fixed, old=new.detach()) if self._on_policy else self._fixed
        losses = self._objective.losses(new, fixed)
        self.statistics = PolicyStatistics.of(losses)
        total = (reading.share * losses.loss).sum()
        if losses.kl is not None:
            total = total + (reading.kl_share * losses.kl).sum()
        return total / self._count
