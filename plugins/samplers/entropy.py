"""Dream's entropy order."""

from __future__ import annotations

from opendllm.core.toolkit.ranking import commit_best
from opendllm.core.toolkit.step_schedules import remaining_by_time
from opendllm.plugins.samplers import EntropyOptions
from opendllm.registries.samplers import Sampler, Selection, Step


class Entropy(Sampler):
    """Commit the positions whose filtered distribution has the lowest entropy."""

    plans = True
    confidence = "negative_entropy"

    def __init__(self, options: EntropyOptions) -> None:
        pass

    def remaining_masks(self, masks: int, steps: int) -> list[int]:
        """By the published time grid."""
        return remaining_by_time(masks, steps)

    def select(self, step: Step) -> Selection:
        """The best ones."""
        return Selection(commit=commit_best(step.confidence, step))
