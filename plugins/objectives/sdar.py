"""SDAR's objective."""

from __future__ import annotations

import torch

from opendllm.core.toolkit.block_corruption import blocks_of, noisy_and_clean, with_complement
from opendllm.plugins.objectives import SdarOptions
from opendllm.registries.noise_schedules import NoiseSchedule
from opendllm.registries.objectives import Corruption, Masking, Noise, Objective
from opendllm.registries.sequences import TokenRows

MIN_PROBABILITY = 1e-3
ATTEMPTS = 10
"""Draws for a row in which none masks a token; then the likeliest one is masked."""


class Sdar(Objective):
    """sum m ce / p over maskable tokens, one p a document (JetAstra/SDAR @c2041a83, arXiv:2510.06303)."""

    def __init__(self, options: SdarOptions) -> None:
        self._complementary = options.complementary_masks

    def mask(self, rows: TokenRows, noise: Noise, schedule: NoiseSchedule) -> Masking:
        """p = .999 t + .001, t ~ U(0, 1); a row without a mask is drawn anew."""
        probability = (1 - MIN_PROBABILITY) * noise.per_document("time") + MIN_PROBABILITY
        masked = torch.zeros_like(rows.maskable)
        for attempt in range(ATTEMPTS):
            drawn = noise.per_token(f"mask-{attempt}" if attempt else "mask")
            found = rows.maskable & (drawn < probability)
            masked = torch.where(masked.any(-1, keepdim=True), masked, found)
        lowest = drawn.masked_fill(~rows.maskable, torch.inf).argmin(-1, keepdim=True)
        one = torch.zeros_like(masked).scatter(1, lowest, True) & rows.maskable
        masked = torch.where(masked.any(-1, keepdim=True), masked, one)
        return Masking(masked, probability, probability, rows)

    def corrupt(self, masking: Masking, schedule: NoiseSchedule, mask_token_id: int) -> Corruption:
        """The noisy half and the clean half; only masked tokens are scored, all maskable ones counted."""
        if self._complementary:
            masking = with_complement(masking, schedule)
        return noisy_and_clean(
            masking,
            blocks_of(masking.rows, "sdar"),
            mask_token_id,
            weight=1 / masking.mask_probability,
            count=masking.rows.maskable.sum(),
        )
