"""The entropy-bounded sampler."""

from __future__ import annotations

from opendllm.core.toolkit.ranking import rank_in_row
from opendllm.plugins.samplers import EntropyBoundedOptions
from opendllm.registries.samplers import Sampler, Selection, Step


class EntropyBounded(Sampler):
    """Commit from the lowest entropy on, while the committed entropies' sum less their maximum is <= gamma.

    That bounds what committing them together, rather than one by one, can cost (EB-Sampler,
    arXiv:2505.24857, section 4).
    """

    confidence = "negative_entropy"

    def __init__(self, options: EntropyBoundedOptions) -> None:
        self._gamma = options.gamma

    def select(self, step: Step) -> Selection:
        """In ascending order the maximum is the last, so what counts is the sum of those before it."""
        rank = rank_in_row(step.confidence, step.masked)
        entropy = (-step.confidence).masked_fill(~step.masked, 0.0).double()
        ordered = entropy.gather(-1, rank.argsort(-1))
        sum_before = ordered.cumsum(-1).roll(1, -1)
        sum_before[:, 0] = 0
        sum_before = sum_before.gather(-1, rank)
        return Selection(commit=step.masked & (sum_before <= self._gamma))
