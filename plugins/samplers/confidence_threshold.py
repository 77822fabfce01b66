"""Fast-dLLM's parallel commits above a threshold."""

from __future__ import annotations

from opendllm.core.toolkit.ranking import rank_in_row
from opendllm.plugins.samplers import ConfidenceThresholdOptions
from opendllm.registries.samplers import Sampler, Selection, Step


class ConfidenceThreshold(Sampler):
    """Commit every proposal whose model probability reaches the threshold, and always the best one.

    NVlabs/Fast-dLLM @24cc59e7, `get_transfer_index` with a threshold (arXiv:2505.22618, section 3.3).
    """

    confidence = "model_probability"

    def __init__(self, options: ConfidenceThresholdOptions) -> None:
        self._threshold = options.threshold

    def select(self, step: Step) -> Selection:
        """As many as are sure enough."""
        best = rank_in_row(step.confidence, step.masked) == 0
        return Selection(commit=step.masked & (best | (step.confidence >= self._threshold)))
