"""The margin order."""

from __future__ import annotations

from opendllm.core.toolkit.ranking import commit_best
from opendllm.core.toolkit.step_schedules import remaining_by_time
from opendllm.plugins.samplers import TopkMarginOptions
from opendllm.registries.samplers import Sampler, Selection, Step


class TopkMargin(Sampler):
    """Commit where the best filtered probability leads the second best by most (Dream, `topk_margin`)."""

    plans = True
    confidence = "margin"

    def __init__(self, options: TopkMarginOptions) -> None:
        pass

    def remaining_masks(self, masks: int, steps: int) -> list[int]:
        """By the published time grid."""
        return remaining_by_time(masks, steps)

    def select(self, step: Step) -> Selection:
        """The best ones."""
        return Selection(commit=commit_best(step.confidence, step))
