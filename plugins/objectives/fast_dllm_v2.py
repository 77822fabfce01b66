"""Fast-dLLM v2's objective."""

from __future__ import annotations

import torch

from opendllm.core.toolkit.block_corruption import blocks_of, noisy_and_clean, with_complement
from opendllm.core.toolkit.segments import block_starts, document_starts
from opendllm.plugins.objectives import FastDllmV2Options
from opendllm.registries.noise_schedules import NoiseSchedule
from opendllm.registries.objectives import Corruption, Masking, Noise, Objective
from opendllm.registries.sequences import TokenRows

MIN_PROBABILITY = 1e-3


class FastDllmV2(Objective):
    """Mean cross-entropy over two complementary views (NVlabs/Fast-dLLM @5332e2f, arXiv:2509.26328).

    Not weighed by the masks' probability. A document's first token, which nothing predicts in a shifted
    checkpoint, is not scored; a block's first one is learnt at the noisy token before it, as published,
    though it is decoded, and its likelihood measured, at the clean one.
    """

    def __init__(self, options: FastDllmV2Options) -> None:
        self._complementary = options.complementary_masks

    def mask(self, rows: TokenRows, noise: Noise, schedule: NoiseSchedule) -> Masking:
        """p = .999 t + .001, one t ~ U(0, 1) a block."""
        starts = block_starts(rows.segments, blocks_of(rows, "fast-dllm-v2"))
        time = noise.per_token("time").gather(1, starts)
        probability = (1 - MIN_PROBABILITY) * time + MIN_PROBABILITY
        masked = rows.maskable & (noise.per_token("mask") < probability)
        return Masking(masked, probability, probability, rows)

    def corrupt(self, masking: Masking, schedule: NoiseSchedule, mask_token_id: int) -> Corruption:
        """Both views' noisy and clean halves."""
        if self._complementary:
            masking = with_complement(masking, schedule)
        scored = masking.masked & ~document_starts(masking.rows.segments)
        return noisy_and_clean(
            masking,
            blocks_of(masking.rows, "fast-dllm-v2"),
            mask_token_id,
            weight=torch.ones_like(masking.mask_probability),
            count=scored.sum(),
            scored=scored,
            predicts_from_clean=False,
        )
