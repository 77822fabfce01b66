"""MaskGIT's confidence order."""

from __future__ import annotations

from opendllm.core.toolkit.ranking import commit_best
from opendllm.core.toolkit.step_schedules import remaining_by_time
from opendllm.plugins.samplers import MaskgitPlusOptions
from opendllm.registries.samplers import Sampler, Selection, Step


class MaskgitPlus(Sampler):
    """Commit the proposals of highest filtered probability (Dream and Open-dLLM, `maskgit_plus`)."""

    plans = True
    confidence = "probability"

    def __init__(self, options: MaskgitPlusOptions) -> None:
        pass

    def remaining_masks(self, masks: int, steps: int) -> list[int]:
        """By the published time grid."""
        return remaining_by_time(masks, steps)

    def select(self, step: Step) -> Selection:
        """The best ones."""
        return Selection(commit=commit_best(step.confidence, step))
