"""Coupled-GRPO, and dLLM-RL's forms of it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from opendllm.core.toolkit.masked_views import (
    MaskedView,
    Terms,
    masked_reading,
    terms_of_tokens,
    terms_of_views,
)
from opendllm.core.toolkit.policy_losses import TermShares, term_shares
from opendllm.core.toolkit.rollout_tokens import learnt_tokens
from opendllm.plugins.objectives.clipped_objective import ClippedObjective
from opendllm.plugins.objectives.policy_options import CoupledGrpoOptions
from opendllm.registries.objectives import Noise
from opendllm.registries.policies import PolicyReading, Rollouts


class CoupledGrpo(ClippedObjective):
    """mean over answers' tokens of -min(r A, clip(r) A) + beta KL (DiffuCoder, arXiv:2506.20639).

    A token's log-probability is 1/2 (l_full + (l_m / p where it is in the mask m, else l_c / (1 - p))), with
    l_full behind a completion all masked, l_m behind m, l_c behind its complement: a weighed sum, so that r
    is no ratio of probabilities. One p ~ U(.2, .8) an answer; m covers u < p.
    """

    def __init__(self, options: CoupledGrpoOptions) -> None:
        super().__init__(options)
        self._options = options

    def readings(self, rollouts: Rollouts, noise: Noise) -> Sequence[PolicyReading]:
        """One of 3B rows; of `pairs` and `random` one a draw, of 2B or B rows."""
        if self._options.masks == "coupled":
            return [self._coupled(rollouts, noise)]
        return [self._drawn(rollouts, noise, draw) for draw in range(self._options.draws)]

    def _coupled(self, rollouts: Rollouts, noise: Noise) -> PolicyReading:
        rows, counted = rollouts.rows, rollouts.counted
        share = self._share(noise, "ratio").expand(rows.tokens.shape)
        mask = rows.maskable & (noise.per_token("mask") < share)
        parts = [
            (rows.maskable, torch.full_like(share, 0.5)),
            (mask, 0.5 / share),
            (rows.maskable & ~mask, 0.5 / (1 - share)),
        ]
        views = [MaskedView(part, part & counted, weight, rows.segments) for part, weight in parts]
        terms = terms_of_tokens(counted, len(views))
        return masked_reading(rollouts, views, terms, self._shares(rollouts, terms))

    def _drawn(self, rollouts: Rollouts, noise: Noise, draw: int) -> PolicyReading:
        rows, learnt = rollouts.rows, learnt_tokens(rollouts, self._options.post_num)
        share = self._share(noise, f"ratio-{draw}")
        mask = learnt & (noise.per_token(f"mask-{draw}") < share)
        never = rows.maskable & ~learnt
        parts = [mask, learnt & ~mask] if self._options.masks == "pairs" else [mask]
        ones = torch.ones_like(learnt, dtype=torch.float64)
        views = [MaskedView(part | never, part, ones, rows.segments) for part in parts]
        terms = terms_of_views(views)
        return masked_reading(rollouts, views, terms, self._shares(rollouts, terms))

    def _share(self, noise: Noise, stream: str) -> Tensor:
        low, high = self._options.ratio_range
        return low + (high - low) * noise.per_row(stream)

    def _shares(self, rollouts: Rollouts, terms: Terms) -> TermShares:
        options, longest = self._options, rollouts.max_completion_length
        return term_shares(options.normalisation, terms.sequence, options.beta, longest)
