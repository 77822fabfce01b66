"""What the built-in policy objectives share: advantages within groups, and a clipped ratio."""

from __future__ import annotations

import math

from torch import Tensor

from opendllm.core.toolkit.policy_advantages import group_advantages
from opendllm.core.toolkit.policy_losses import ClippedRatio
from opendllm.plugins.objectives.policy_options import ClippedOptions
from opendllm.registries.policies import FixedTerms, PolicyLosses, PolicyObjective


class ClippedObjective(PolicyObjective):
    """All but the readings."""

    def __init__(self, options: ClippedOptions, largest_log_ratio: float = math.inf) -> None:
        self._kind = options.advantages
        self._ratio = ClippedRatio(
            options.epsilon_low,
            options.epsilon_high,
            options.kl_estimator if options.beta else None,
            options.kl_to,
            largest_log_ratio,
        )

    def advantages(self, rewards: Tensor) -> Tensor:
        """See `PolicyObjective.advantages`."""
        return group_advantages(rewards, self._kind)

    def losses(self, new: Tensor, fixed: FixedTerms) -> PolicyLosses:
        """See `PolicyObjective.losses`."""
        return self._ratio.losses(new, fixed)
