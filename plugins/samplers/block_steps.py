"""The samplers of block diffusion: SDAR, LLaDA2.0, dInfer and Fast-dLLM v2."""

from __future__ import annotations

import torch
from torch import Tensor

from opendllm.core.toolkit.ranking import rank_in_row
from opendllm.plugins.samplers import BlockStepsOptions
from opendllm.registries.samplers import Sampler, Selection, Step

NEAR_BEST = 1e-5
"""How near the best confidence dInfer's threshold comes at most."""


class BlockSteps(Sampler):
    """A number of commits a step, or all those that are sure enough (JetAstra/SDAR @c2041a83).

    A block of B positions takes S steps at most, of which step s commits n_s = B // S + [s < B mod S] masks
    (B counts the prompt's positions in it, too): `static` the surest, `sequential` the first; `dynamic` all
    whose confidence is above the threshold if those are n_s or more, else the n_s surest. `dynamic` is
    LLaDA2.0's rule as well, and with one step a position, Fast-dLLM v2's. `near-best` is dInfer's: all that
    reach the threshold, or the best one nearly. `entropy-bound` commits while the
    entropies' sum, lowest first, is below a bound, and at least one.
    """

    cuts_top_k_first = True

    def __init__(self, options: BlockStepsOptions) -> None:
        self._rule = options.rule
        self._threshold = options.threshold
        self._bound = options.entropy_bound
        self._steps = options.block_steps
        self.confidence = "probability" if options.confidence == "filtered" else "tempered_probability"
        if options.rule == "entropy-bound":
            self.confidence = "negative_entropy"

    def select(self, step: Step) -> Selection:
        """By the rule."""
        rank = rank_in_row(step.confidence, step.masked)
        if self._rule == "entropy-bound":
            entropy = (-step.confidence).masked_fill(~step.masked, 0.0)
            total = entropy.gather(-1, rank.argsort(-1)).cumsum(-1).gather(-1, rank)
            return Selection(commit=step.masked & ((rank == 0) | (total < self._bound)))
        if self._rule == "near-best":
            confidence = step.confidence.masked_fill(~step.masked, -torch.inf)
            reach = (confidence.amax(-1, keepdim=True) - NEAR_BEST).clamp(max=self._threshold)
            return Selection(commit=step.masked & (confidence >= reach))
        number = self._commits(step)[:, None]
        if self._rule == "sequential":
            columns = torch.arange(step.masked.shape[1], device=step.masked.device)
            first = torch.where(step.masked, columns, step.masked.shape[1]).amin(-1, keepdim=True)
            return Selection(commit=step.masked & (columns < first + number))
        best = step.masked & (rank < number)
        if self._rule == "static":
            return Selection(commit=best)
        sure = step.masked & (step.confidence > self._threshold)
        enough = sure.sum(-1, keepdim=True) >= number
        return Selection(commit=torch.where(enough, sure, best))

    def _commits(self, step: Step) -> Tensor:
        """[B] int64, n_s; at least 1, where there are more steps than positions."""
        steps = step.width if self._steps is None else torch.full_like(step.width, self._steps)
        number = step.width // steps + (step.index < step.width % steps)
        return number.clamp(min=1)
