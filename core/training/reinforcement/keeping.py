"""An objective may leave prompts out by what their answers are worth; it must not leave out all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from opendllm.core.rewards.weighing import WeightedReward
from opendllm.registries.errors import UserError
from opendllm.registries.policies import PolicyObjective

TRIED = 1001
"""Rewards between the least and the greatest."""


def refuse_keeping_none(
    objective: PolicyObjective, rewards: Sequence[WeightedReward], group_size: int
) -> None:
    """Ask it about groups of one reward, and of so many of the greatest beside the least, within the bounds.

    Raises:
        UserError: it keeps none of them.
    """
    ends = [sorted(each.weight * end for end in each.plugin.build().bounds) for each in rewards]
    low, high = (math.fsum(end[side] for end in ends) for side in (0, 1))
    if not math.isfinite(low) or not math.isfinite(high):
        return
    equal = torch.linspace(low, high, TRIED, dtype=torch.float64)[:, None].expand(-1, group_size)
    greatest = torch.arange(group_size) < torch.arange(group_size + 1)[:, None]
    mixed = torch.where(greatest, high, low).double()
    if not bool(objective.kept(torch.cat([equal, mixed])).any()):
        raise UserError(
            f"train.objective: its options keep no prompt, since an answer is worth between {low:g} and "
            f"{high:g} here: choose a range (kept_rewards, say) that the weighted rewards can have"
        )
