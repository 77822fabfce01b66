"""The autoregressive baseline."""

from __future__ import annotations

import torch

from opendllm.core.toolkit.segments import document_starts
from opendllm.plugins.objectives import ArOptions
from opendllm.registries.noise_schedules import NoiseSchedule
from opendllm.registries.objectives import Corruption, Masking, Noise, Objective
from opendllm.registries.sequences import ModelInputs, TokenRows


class Autoregressive(Objective):
    """Mean cross-entropy of every token but a document's first, under causal attention.

    Nothing is hidden: aligned logits of a causal, shifted model see earlier tokens only.
    """

    def __init__(self, options: ArOptions) -> None:
        pass

    def mask(self, rows: TokenRows, noise: Noise, schedule: NoiseSchedule) -> Masking:
        """Every maskable token counts as hidden from its own prediction."""
        certain = torch.ones_like(rows.tokens, dtype=torch.float64)
        return Masking(rows.maskable, certain, certain, rows)

    def corrupt(self, masking: Masking, schedule: NoiseSchedule, mask_token_id: int) -> Corruption:
        """Score all but each document's first token."""
        rows = masking.rows
        scored = masking.masked & ~document_starts(rows.segments)
        return Corruption(
            inputs=ModelInputs(rows.tokens, rows.segments, rows.positions),
            targets=rows.tokens,
            scored=scored,
            weight=torch.ones(int(scored.sum()), dtype=torch.float64, device=rows.tokens.device),
            count=scored.sum().double(),
        )
