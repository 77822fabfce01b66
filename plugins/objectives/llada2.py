"""LLaDA2's objective."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from opendllm.core.toolkit.block_corruption import blocks_of, noisy_and_clean, with_complement
from opendllm.plugins.objectives import Llada2Options
from opendllm.registries.noise_schedules import NoiseSchedule
from opendllm.registries.objectives import Corruption, Masking, Noise, Objective, ScoredPositions
from opendllm.registries.sequences import TokenRows


class Llada2(Objective):
    """Mean cross-entropy of masked tokens, their share drawn from a range (inclusionAI/dFactory @92b68908).

    With `confidence_beta`, confidence-aware parallel training (CAP) adds beta times the mean entropy of the
    masked positions whose most probable token is the right one. Both means are over the global batch, so
    that the loss doesn't depend on how rows are batched; dFactory takes them over each micro-batch and
    averages these equally, which is the same where a step has one micro-batch.
    """

    def __init__(self, options: Llada2Options) -> None:
        self._low, self._high = options.noise_range
        self._beta = options.confidence_beta
        self._complementary = options.complementary_masks
        self.reads_distributions = self.averages_answers = self._beta > 0

    def mask(self, rows: TokenRows, noise: Noise, schedule: NoiseSchedule) -> Masking:
        """Each token with its document's probability."""
        probability = noise.per_document("time") * (self._high - self._low) + self._low
        masked = rows.maskable & (noise.per_token("mask") < probability)
        return Masking(masked, probability, probability, rows)

    def corrupt(self, masking: Masking, schedule: NoiseSchedule, mask_token_id: int) -> Corruption:
        """The noisy half and the clean half; masked tokens are scored, with weight 1."""
        if self._complementary:
            masking = with_complement(masking, schedule)
        corruption = noisy_and_clean(
            masking,
            blocks_of(masking.rows, "llada2"),
            mask_token_id,
            weight=torch.ones_like(masking.mask_probability),
            count=masking.masked.sum(),
        )
        return replace(corruption, time=masking.time[masking.masked], ids=masking.rows.ids)

    def position_losses(self, logits: Tensor, positions: ScoredPositions, schedule: NoiseSchedule) -> Tensor:
        """Cross-entropy."""
        return cross_entropy(logits, positions.clean, reduction="none")

    def answer_losses(self, logits: Tensor, positions: ScoredPositions) -> tuple[Tensor, Tensor]:
        """Beta times the entropy, where the most probable token is the target."""
        log_probability = logits.log_softmax(-1)
        entropy = -(log_probability.exp() * log_probability).sum(-1)
        return self._beta * entropy, logits.argmax(-1) == positions.clean
