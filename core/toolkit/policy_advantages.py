"""Advantages: how much better an answer is than the others to its prompt."""

from __future__ import annotations

import torch
from torch import Tensor

from opendllm.core.toolkit.policy_choices import AdvantageKind
from opendllm.registries.errors import UserError

SMALL = 1e-4
"""Added to the sample's deviation, as TRL does."""
ROUNDING = 1e-12
"""Rewards that differ by less, as a share of the group's largest, are the same sum in another order."""


def apart_from_first(rewards: Tensor) -> Tensor:
    """[P, G] float64: rewards [P, G] minus the first of their group; exactly 0 where rounding is all."""
    exact = rewards.double()
    apart = exact - exact[:, :1]
    largest = exact.abs().amax(1, keepdim=True)
    return torch.where(apart.abs() <= ROUNDING * largest, 0.0, apart)


def group_advantages(rewards: Tensor, kind: AdvantageKind) -> Tensor:
    """[P, G] float64 of rewards [P, G]; rewards that are equal have advantage 0, exactly.

    `leave-one-out`: r minus the mean of the others, G / (G - 1) (r - mean) (arXiv:2402.14740);
    `leave-one-out-scaled`: that / (sample deviation + 1e-4); `group-mean`: r - mean (arXiv:2503.20783);
    `z-score`: (r - mean) / (sample deviation + 1e-4) (GRPO, as in TRL); `z-score-population`: (r - mean) /
    population deviation, 0 where that is 0 (dLLM-RL, arXiv:2509.06949).

    Args:
        rewards: [P, G], of G answers to each of P prompts.
        kind: of them.

    Raises:
        UserError: G is 1.
    """
    size = rewards.shape[1]
    if size < 2:
        raise UserError(
            f"groups of {size}: an answer's advantage is over others to its prompt; ask for two or more"
        )
    # Against one of them first: sums of numbers that are no binary fractions would leave a rest.
    apart = apart_from_first(rewards)
    centred = apart - apart.mean(1, keepdim=True)
    if kind == "group-mean":
        return centred
    if kind == "z-score-population":
        deviation = centred.square().mean(1, keepdim=True).sqrt()
        return torch.where(deviation > 0, centred / deviation, 0.0)
    deviation = (centred.square().sum(1, keepdim=True) / (size - 1)).sqrt() + SMALL
    if kind == "z-score":
        return centred / deviation
    left_out = centred * (size / (size - 1))
    return left_out / deviation if kind == "leave-one-out-scaled" else left_out
