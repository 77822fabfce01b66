"""The contract of objectives, as tests."""

from __future__ import annotations

from opendllm.core.testing.objective_bounds import BoundTests
from opendllm.core.testing.objective_corruption import CorruptionTests
from opendllm.core.testing.objective_losses import LossTests


class ObjectiveContract(CorruptionTests, LossTests, BoundTests):
    """A pure function of rows and noise that never touches prompts or padding, whose loss is what it says."""
