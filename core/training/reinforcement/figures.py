"""What is logged of a phase, over all ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from opendllm.core.toolkit.policy_advantages import apart_from_first
from opendllm.core.training.reinforcement.judging import FULL_MARK


def reward_figures(rewards: Tensor, values: Tensor, names: Sequence[str]) -> dict[str, float]:
    """Of a phase's rewards.

    Args:
        rewards: [P, G] float64, weighted sums.
        values: [P * G, R] float64, of each reward.
        names: of the R rewards.
    """
    spread = rewards.std(dim=1, correction=0)
    equal = (apart_from_first(rewards) == 0).all(1)
    found = {
        "reward": float(rewards.mean()),
        "reward_deviation": float(spread.mean()),
        "groups_without_spread": float(equal.double().mean()),
    }
    for name, column in zip(names, values.unbind(1), strict=True):
        found[f"reward_{name}"] = float(column.mean())
        found[f"full_marks_{name}"] = float((column >= FULL_MARK).double().mean())
    return found


def answer_sums(lengths: Sequence[int], ended: Sequence[bool], passes: Sequence[int]) -> Tensor:
    """[4] float64, to be summed over ranks: answers, their tokens, how many ended, forward passes."""
    return torch.tensor([len(lengths), sum(lengths), sum(ended), sum(passes)], dtype=torch.float64)


def answer_figures(sums: Tensor) -> Mapping[str, float]:
    """Of `answer_sums` of all ranks."""
    answers, tokens, ended, passes = sums.tolist()
    return {
        "completion_length": tokens / answers,
        "ended": ended / answers,
        "forward_passes": passes / answers,
    }
