"""LLaDA's sampler."""

from __future__ import annotations

from opendllm.core.toolkit.ranking import commit_best
from opendllm.core.toolkit.step_schedules import remaining_evenly
from opendllm.plugins.samplers import LowConfidenceOptions
from opendllm.registries.samplers import Sampler, Selection, Step


class LowConfidence(Sampler):
    """Commit the proposals of highest model probability, as many at each step (ML-GSAI/LLaDA @b7e6c356).

    The probability is the model's own: neither tempered, filtered nor perturbed.
    """

    def __init__(self, options: LowConfidenceOptions) -> None:
        self._at_random = options.remasking == "random"

    def remaining_masks(self, masks: int, steps: int) -> list[int]:
        """An even share a step, the remainder at the earliest ones."""
        return remaining_evenly(masks, steps)

    def select(self, step: Step) -> Selection:
        """The best ones, or random ones."""
        scores = step.draws.uniform("remasking") if self._at_random else step.proposals.model_probability()
        return Selection(commit=commit_best(scores, step))
