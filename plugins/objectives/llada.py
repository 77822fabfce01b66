"""LLaDA's objective."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from opendllm.core.toolkit.block_corruption import with_complement
from opendllm.core.toolkit.segments import document_starts
from opendllm.plugins.objectives import LladaOptions
from opendllm.registries.noise_schedules import NoiseSchedule
from opendllm.registries.objectives import Corruption, Masking, Noise, Objective
from opendllm.registries.sequences import PADDING_SEGMENT, TokenRows

MIN_PROBABILITY = 1e-3


class Llada(Objective):
    """Cross-entropy over p = (1 - 1e-3) t + 1e-3 (ML-GSAI/LLaDA @b7e6c356, GUIDELINES.md).

    pretraining: sum m ce / p over all real tokens; sft: sum m ce / p / (answer's length) over all
    documents, where an answer is a document's maskable tokens, its EOS counted in.
    """

    def __init__(self, options: LladaOptions) -> None:
        self._complementary = options.complementary_masks
        self._sft = options.form == "sft"
        self._random_length_probability = 0.0 if self._sft else options.random_length_probability

    def mask(self, rows: TokenRows, noise: Noise, schedule: NoiseSchedule) -> Masking:
        """t ~ U(0, 1) per row.

        LLaDA cuts 1 % of its batches to a random length; here 1 % of the rows are, so that what a
        row looks like does not depend on how rows are batched.
        """
        rows = self._shorten(rows, noise)
        time = noise.per_row("time").expand(rows.tokens.shape)
        probability = (1 - MIN_PROBABILITY) * time + MIN_PROBABILITY
        masked = rows.maskable & (noise.per_token("mask") < probability)
        return Masking(masked, probability, probability, rows)

    def corrupt(self, masking: Masking, schedule: NoiseSchedule, mask_token_id: int) -> Corruption:
        """Hide the masked tokens; weigh each with 1/p."""
        if self._complementary:
            masking = with_complement(masking, schedule)
        rows = masking.rows
        weight = 1 / masking.mask_probability
        count = (rows.segments != PADDING_SEGMENT).sum()
        if self._sft:
            lengths = _answer_lengths(rows)
            weight = weight / lengths.clamp(min=1)
            count = (document_starts(rows.segments) & (lengths > 0)).sum()
        return Corruption.of_masked(masking, mask_token_id, weight=weight, count=count)

    def _shorten(self, rows: TokenRows, noise: Noise) -> TokenRows:
        length = rows.tokens.shape[1]
        cut = noise.per_row("cut") < self._random_length_probability
        kept = torch.where(cut, (noise.per_row("cut-length") * length).long() + 1, length)
        beyond = torch.arange(length, device=rows.tokens.device) >= kept
        return replace(
            rows,
            segments=torch.where(beyond, PADDING_SEGMENT, rows.segments),
            maskable=rows.maskable & ~beyond,
        )


def _answer_lengths(rows: TokenRows) -> Tensor:
    """[B, L] int64: how many maskable tokens each position's document has."""
    documents = rows.segments + 1  # padding is -1
    counts = torch.zeros(documents.shape[0], int(documents.max()) + 1, dtype=torch.int64)
    counts = counts.to(documents.device).scatter_add(1, documents, rows.maskable.long())
    return counts.gather(1, documents)
