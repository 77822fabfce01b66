"""The entropy-bounded sampler."""

from __future__ import annotations

from opendllm.core.toolkit.ranking import within_entropy_bound
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
        """The rule of `within_entropy_bound`."""
        return Selection(commit=within_entropy_bound(-step.confidence, step.masked, self._gamma))
