"""The sampler that waits until proposals have settled."""

from __future__ import annotations

import torch
from opendllm.core.toolkit.ranking import best_in_row
from opendllm.registries.samplers import Sampler, Selection, Step

from opendllm_examples import SettledOptions


class Settled(Sampler):
    """Commits what was proposed `patience` steps running, if the model is sure enough of it.

    Where nothing has settled, the surest proposal is committed, so that every step gets on. That proposals
    which stay are right is what KLASS (arXiv:2511.05664) and Prophet (arXiv:2508.19982) rely on, each in a
    way of its own; here the token itself has to stay.
    """

    confidence = "probability"
    # A token that has to come twice isn't drawn from the model's distribution any more.
    follows_model = False

    def __init__(self, options: SettledOptions) -> None:
        self._patience = options.patience
        self._threshold = options.threshold

    def select(self, step: Step) -> Selection:
        """Count how often each proposal [B, L] has come running; commit what has settled."""
        # `Step.memory` is one whole number a position, -1 at first: token * (patience + 1) + times seen.
        base = self._patience + 1
        known = step.memory >= 0
        before, times = step.memory // base, step.memory % base
        again = known & (before == step.tokens)
        times = torch.where(again, (times + 1).clamp(max=self._patience), torch.ones_like(times))
        settled = step.masked & (times >= self._patience) & (step.confidence >= self._threshold)
        surest = best_in_row(step.confidence, step.masked, torch.ones_like(step.index))
        return Selection(commit=settled | surest, memory=step.tokens * base + times)
