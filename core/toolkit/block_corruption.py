"""Corruptions that several objectives share: two halves a row, complementary views, rows in pairs."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from opendllm.core.toolkit.segments import noisy_then_clean
from opendllm.registries.errors import UserError
from opendllm.registries.noise_schedules import NoiseSchedule
from opendllm.registries.objectives import Corruption, Masking
from opendllm.registries.sequences import ModelInputs, TokenRows

MIN_PROBABILITY = 1e-3
"""Of the complement's masks, so that no weight is above its reciprocal."""


def blocks_of(rows: TokenRows, objective: str) -> Tensor:
    """[B, L] the model's blocks.

    Raises:
        UserError: it has none.
    """
    if rows.blocks is None:
        raise UserError(f"objective {objective} needs a model with block-causal attention")
    return rows.blocks


def noisy_and_clean(
    masking: Masking,
    blocks: Tensor,
    mask_token_id: int,
    *,
    weight: Tensor,
    count: Tensor,
    scored: Tensor | None = None,
    predicts_from_clean: bool = True,
) -> Corruption:
    """The noisy row and then the clean one, 2L positions; only the noisy half is scored (BD3LM).

    Args:
        masking: which tokens are masked.
        blocks: [B, L] the model's.
        mask_token_id: what stands in their place.
        weight: [B, L], of which only scored positions are read.
        count: scalar, of any dtype.
        scored: [B, L] bool, the masked tokens that are scored; None for all of them.
        predicts_from_clean: see `ModelInputs`.
    """
    rows, masked = masking.rows, masking.masked
    scored = masked if scored is None else scored
    noisy = torch.where(masked, mask_token_id, rows.tokens)
    clean = ModelInputs(rows.tokens, rows.segments, rows.positions)
    return Corruption(
        inputs=noisy_then_clean(clean, noisy, blocks, predicts_from_clean),
        targets=torch.cat([rows.tokens, rows.tokens], dim=1),
        scored=torch.cat([scored, torch.zeros_like(scored)], dim=1),
        weight=weight[scored],
        count=count.double(),
    )


def with_complement(masking: Masking, schedule: NoiseSchedule) -> Masking:
    """2B rows: after each row the same with just the other maskable tokens masked.

    Every maskable token is learnt in one of the two views (Fast-dLLM v2, arXiv:2509.26328, section 3.2).
    """
    rows = masking.rows
    other = (1 - masking.mask_probability).clamp(min=MIN_PROBABILITY)
    doubled = replace(
        rows,
        tokens=in_pairs(rows.tokens, rows.tokens),
        segments=in_pairs(rows.segments, rows.segments),
        positions=in_pairs(rows.positions, rows.positions),
        maskable=in_pairs(rows.maskable, rows.maskable),
        sample_index=in_pairs(rows.sample_index, rows.sample_index),
        blocks=None if rows.blocks is None else in_pairs(rows.blocks, rows.blocks),
    )
    return Masking(
        in_pairs(masking.masked, rows.maskable & ~masking.masked),
        in_pairs(masking.mask_probability, other),
        in_pairs(masking.time, schedule.time_of(other)),
        doubled,
    )


def in_pairs(first: Tensor, second: Tensor) -> Tensor:
    """[2B, ...] of two [B, ...], row after row."""
    return torch.stack([first, second], dim=1).flatten(0, 1)
