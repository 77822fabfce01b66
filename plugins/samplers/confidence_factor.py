"""Fast-dLLM's parallel commits by a factor."""

from __future__ import annotations

from opendllm.core.toolkit.ranking import rank_in_row
from opendllm.plugins.samplers import ConfidenceFactorOptions
from opendllm.registries.samplers import Sampler, Selection, Step


class ConfidenceFactor(Sampler):
    """Down the sorted proposals, commit while the confidence at rank r is at least 1 - f / (r + 1).

    Rank 1, the best, is always committed (NVlabs/Fast-dLLM @24cc59e7, arXiv:2505.22618, section 3.3).
    """

    confidence = "model_probability"

    def __init__(self, options: ConfidenceFactorOptions) -> None:
        self._factor = options.factor

    def select(self, step: Step) -> Selection:
        """A run of the best ones, up to the first that falls short."""
        rank = rank_in_row(step.confidence, step.masked)
        short = step.masked & (rank > 0) & (step.confidence < 1 - self._factor / (rank + 2))
        first_short = rank.masked_fill(~short, rank.shape[-1]).min(-1, keepdim=True).values
        return Selection(commit=step.masked & (rank < first_short))
