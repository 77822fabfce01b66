"""Path planning, as Open-dLLM decodes."""

from __future__ import annotations

from opendllm.core.toolkit.ranking import best_in_row
from opendllm.core.toolkit.step_schedules import remaining_by_path
from opendllm.plugins.samplers import P2Options
from opendllm.registries.samplers import Sampler, Selection, Step


class P2(Sampler):
    """Propose everywhere; the least sure positions are masked (again), the others keep or take a token.

    A position that is already committed is ranked by the new proposal's probability but keeps its
    old token (pengzhangzhi/Open-dLLM @8b387877, `_mdm_sample`).
    """

    proposes = "editable"
    confidence = "probability"
    plans = True
    revises = True

    def __init__(self, options: P2Options) -> None:
        pass

    def remaining_masks(self, masks: int, steps: int) -> list[int]:
        """By the published path, in its float32."""
        return remaining_by_path(masks, steps)

    def select(self, step: Step) -> Selection:
        """Mask the `target` least sure editable positions."""
        mask = best_in_row(-step.confidence, step.editable, step.target)
        return Selection(commit=step.masked & ~mask, remask=mask & ~step.masked)
