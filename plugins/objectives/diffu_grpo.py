"""Diffu-GRPO."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from opendllm.core.toolkit.masked_views import MaskedView, masked_reading, terms_of_tokens
from opendllm.core.toolkit.policy_losses import term_shares
from opendllm.core.toolkit.rollout_tokens import prompts_of
from opendllm.plugins.objectives.clipped_objective import ClippedObjective
from opendllm.plugins.objectives.policy_options import DiffuGrpoOptions
from opendllm.registries.objectives import Noise
from opendllm.registries.policies import PolicyReading, Rollouts
from opendllm.registries.sequences import PADDING_SEGMENT


class DiffuGrpo(ClippedObjective):
    """mean over answers' tokens of -min(r A, clip(r) A) + beta KL (d1, arXiv:2504.12216).

    A token's log-probability is that behind a completion all masked, after a prompt whose tokens are masked
    where u < p: the same canvas for all of an answer's tokens.
    """

    def __init__(self, options: DiffuGrpoOptions) -> None:
        super().__init__(options)
        self._options = options

    def readings(self, rollouts: Rollouts, noise: Noise) -> Sequence[PolicyReading]:
        """One of B rows; with guidance of 2B, the last of them without their prompt."""
        options, rows, counted = self._options, rollouts.rows, rollouts.counted
        prompts = prompts_of(rollouts)
        hidden = prompts & (noise.per_token("prompt") < options.prompt_mask_probability)
        segments = rows.segments
        if options.hide_after_end:
            segments = torch.where(rows.maskable & ~counted, PADDING_SEGMENT, segments)
        ones = torch.ones_like(counted, dtype=torch.float64)
        masks = [hidden, prompts] if options.guidance_scale else [hidden]
        views = [MaskedView(rows.maskable | mask, counted, ones, segments) for mask in masks]
        terms = terms_of_tokens(counted, len(views))
        shares = term_shares(
            options.normalisation, terms.sequence, options.beta, rollouts.max_completion_length
        )
        return [masked_reading(rollouts, views, terms, shares, options.guidance_scale)]
