"""Open-dLLM's objective."""

from __future__ import annotations

import torch
from torch import Tensor

from opendllm.core.toolkit.block_corruption import with_complement
from opendllm.core.toolkit.segments import document_starts
from opendllm.plugins.objectives import OpenDcoderOptions
from opendllm.registries.noise_schedules import NoiseSchedule
from opendllm.registries.objectives import Corruption, Masking, Noise, Objective
from opendllm.registries.sequences import TokenRows

MIN_RATIO = 1 / 500


class OpenDcoder(Objective):
    """Mask each document at its own ratio r; the first token is never scored.

    With N scored positions (pengzhangzhi/Open-dLLM @8b387877 and its release):
    release: sum (1/r) (ce + sg(exp(-ce)) ce) / N; head: sum ce / N + sum (1/r) sg(exp(-ce)) ce / N.
    """

    def __init__(self, options: OpenDcoderOptions) -> None:
        self._complementary = options.complementary_masks
        self._form = options.form

    def mask(self, rows: TokenRows, noise: Noise, schedule: NoiseSchedule) -> Masking:
        """r ~ U(0, 1) per document, clamped to [1/500, 499/500]; each token with probability r."""
        ratio = noise.per_document("mask-ratio").clamp(MIN_RATIO, 1 - MIN_RATIO)
        masked = rows.maskable & (noise.per_token("mask") < ratio)
        return Masking(masked, ratio, ratio, rows)

    def corrupt(self, masking: Masking, schedule: NoiseSchedule, mask_token_id: int) -> Corruption:
        """Hide the masked tokens; weigh the scored ones with 1/r."""
        if self._complementary:
            masking = with_complement(masking, schedule)
        scored = masking.masked & ~document_starts(masking.rows.segments)
        return Corruption.of_masked(
            masking, mask_token_id, weight=1 / masking.mask_probability, count=scored.sum(), scored=scored
        )

    def loss_sum(self, negative_log_likelihood: Tensor, corruption: Corruption) -> Tensor:
        """Cross-entropy and its path term, which leans on tokens the model is already sure of."""
        sureness = torch.exp(-negative_log_likelihood).detach()
        path = corruption.weight * sureness * negative_log_likelihood
        if self._form == "head":
            return (negative_log_likelihood + path).sum()
        return (corruption.weight * negative_log_likelihood + path).sum()
