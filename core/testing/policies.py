"""The contract of policy objectives, as tests."""

from __future__ import annotations

from opendllm.core.testing.policy_losses import PolicyLossTests
from opendllm.core.testing.policy_readings import ReadingTests


class PolicyObjectiveContract(ReadingTests, PolicyLossTests):
    """A pure function of answers, noise and rewards, whose first step is REINFORCE's."""
