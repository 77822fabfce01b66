"""GIDD's adaptive greedy sampler."""

from __future__ import annotations

import torch
from torch import Tensor

from opendllm.core.toolkit.posteriors import guided_logits, level_at
from opendllm.core.toolkit.ranking import best_in_row
from opendllm.plugins.samplers import AdaptiveGreedyOptions
from opendllm.plugins.samplers.reverse_process import evenly_from_1
from opendllm.registries.samplers import Overwrite, PositionChunk, Sampler, Selection, Step


class AdaptiveGreedy(Sampler):
    """Each step replaces the k tokens that noise most likely put there by the model's best ones.

    A position's score is (max p - p[z]) pi(z): how much surer the model is of its best token than of the
    one that stands, times how likely noise is that one (GIDD's self-correction, arXiv:2503.04482,
    section 5; dvruette/gidd-easydel @6525e88f). The row is done when no token can be bettered; what is
    still masked at the last step is filled.
    """

    proposes = "editable"
    needs_distributions = True
    revises = True
    finishes = True
    follows_model = False

    def __init__(self, options: AdaptiveGreedyOptions) -> None:
        self._count = options.tokens_per_step
        self._at_start = options.noise_of == "start"

    def times(self, index: Tensor, steps: Tensor) -> Tensor:
        """Evenly spaced from 1 on."""
        return evenly_from_1(index, steps)

    def select(self, step: Step) -> Selection:
        """Replace the best-scored ones."""
        assert step.noise_schedule is not None
        assert step.distributions is not None
        mask, asked = step.special.mask, step.distributions
        time = evenly_from_1(step.index * (not self._at_start), step.steps)
        level = level_at(step.noise_schedule, time, step.vocab_size)

        def read(chunk: PositionChunk) -> tuple[Tensor, Tensor]:
            logits = guided_logits(chunk.logits, chunk.unconditional, asked.guidance_scale)
            logits[:, mask] = -torch.inf
            best = logits.argmax(-1)
            chances = logits.softmax(-1)
            pair = chances.gather(1, torch.stack([best, chunk.tokens], dim=1)).double()
            lead = pair[:, 0] - pair[:, 1]
            here = level.at(chunk.rows)
            return best, lead * torch.where(chunk.tokens == mask, here.mask, here.other) / (1 - here.alpha)

        best, score = asked.read(read)
        betterable = step.editable & (score > 0)
        where = best_in_row(score, betterable, torch.full_like(step.index, self._count))
        last = step.index == step.steps - 1
        where = where | (last[:, None] & step.masked)
        return Selection(overwrite=Overwrite(where, best), finished=~(betterable & ~where).any(-1))
