"""What policy objectives share: the clipped ratio, KL estimates, and what a sum of terms is divided by."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from opendllm.core.toolkit.policy_choices import KlEstimator, KlTo, Normalisation
from opendllm.registries.policies import FixedTerms, PolicyLosses


@dataclass(frozen=True)
class ClippedRatio:
    """PPO's loss -min(r A, clamp(r, 1 - epsilon_low, 1 + epsilon_high) A), r = exp(new - old), and a KL
    estimate (arXiv:1707.06347; of k1 and k3 http://joschu.net/blog/kl-approx.html).

    With x = other - new, k1 is -x and k3 is exp(x) - 1 - x.

    Attributes:
        epsilon_low: how far below 1 the ratio may count.
        epsilon_high: how far above.
        kl_estimator: None for no penalty.
        kl_to: what the policy is to stay near.
        largest_log_ratio: beyond which exponents are cut, either way.
    """

    epsilon_low: float
    epsilon_high: float
    kl_estimator: KlEstimator | None
    kl_to: KlTo
    largest_log_ratio: float = math.inf

    def losses(self, new: Tensor, fixed: FixedTerms) -> PolicyLosses:
        """Of M terms."""
        ratio, advantages = self._exponential(new - fixed.old), fixed.advantages
        bounded = ratio.clamp(1 - self.epsilon_low, 1 + self.epsilon_high)
        return PolicyLosses(
            loss=-torch.minimum(ratio * advantages, bounded * advantages),
            kl=self._kl(new, fixed),
            clipped_low=(ratio < 1 - self.epsilon_low) & (advantages < 0),
            clipped_high=(ratio > 1 + self.epsilon_high) & (advantages > 0),
        )

    def _kl(self, new: Tensor, fixed: FixedTerms) -> Tensor | None:
        if self.kl_estimator is None:
            return None
        other = fixed.old if self.kl_to == "old" else fixed.reference
        assert other is not None, "the objective's options say that it needs a reference"
        away = other - new
        return -away if self.kl_estimator == "k1" else self._exponential(away) - 1 - away

    def _exponential(self, exponent: Tensor) -> Tensor:
        return exponent.clamp(-self.largest_log_ratio, self.largest_log_ratio).exp()


@dataclass(frozen=True)
class TermShares:
    """What terms count, see `PolicyReading`: [M], [M] and a scalar, float64."""

    share: Tensor
    kl_share: Tensor
    count: Tensor


def term_shares(
    normalisation: Normalisation, sequence: Tensor, beta: float, max_completion_length: int
) -> TermShares:
    """How terms are averaged. n is the number of terms of a term's sequence.

    `bnpo`: over all terms; `grpo`: over each sequence's, then over sequences; `dr_grpo`: the sum, divided by
    the sequences and the longest that one could be (arXiv:2503.20783); `dllm_rl`: as `grpo`, but KL estimates
    are summed over a sequence. Sequences without a term don't count.

    Args:
        normalisation: which.
        sequence: [M] int64, which sequence each term is of.
        beta: the KL penalty's strength.
        max_completion_length: the longest that a sequence could be.
    """
    ones = sequence.new_ones(len(sequence), dtype=torch.float64)
    _, of_term, terms = sequence.unique(return_inverse=True, return_counts=True)
    if normalisation == "bnpo":
        return TermShares(ones, beta * ones, ones.sum())
    sequences = ones.new_tensor(float(len(terms)))
    if normalisation == "dr_grpo":
        return TermShares(ones, beta * ones, sequences * max_completion_length)
    share = 1 / terms.double()[of_term]
    return TermShares(share, beta * (ones if normalisation == "dllm_rl" else share), sequences)
