"""Documents packed in rows: where they start, and which positions see each other."""

from __future__ import annotations

import torch
from torch import Tensor

from opendllm.registries.sequences import PADDING_SEGMENT, ModelInputs


def document_starts(segments: Tensor) -> Tensor:
    """[B, L] bool, true at the first position of each run of equal numbers in `segments` [B, L]."""
    starts = torch.ones_like(segments, dtype=torch.bool)
    starts[:, 1:] = segments[:, 1:] != segments[:, :-1]
    return starts


def document_positions(segments: Tensor) -> Tensor:
    """[B, L] int64, counting from 0 in each run of equal numbers in `segments` [B, L]."""
    columns = torch.arange(segments.shape[1], device=segments.device).expand_as(segments)
    return columns - torch.where(document_starts(segments), columns, 0).cummax(-1).values


def inputs_from_mask(tokens: Tensor, attention_mask: Tensor | None) -> ModelInputs:
    """One document a row, padded anywhere.

    Args:
        tokens: [B, L] int64.
        attention_mask: [B, L], zero on padding; None where there is none.
    """
    real = torch.ones_like(tokens, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
    segments = torch.where(real, 0, PADDING_SEGMENT)
    positions = (real.cumsum(-1) - 1).clamp(min=0)
    return ModelInputs(tokens, segments, positions)


def visibility(inputs: ModelInputs, blocks: Tensor | None) -> Tensor | None:
    """Which keys each query sees, [B, L, L] bool; None where all see all.

    Padding sees padding, so that no query is left without a key; nothing real sees it.

    Args:
        inputs: the layout.
        blocks: [B, L] block numbers, or None where a document's positions all see each other.
    """
    segments = inputs.segments
    if blocks is None and inputs.clean is not None:
        blocks = torch.zeros_like(segments)
    if blocks is None and bool((segments == segments[:, :1]).all()):
        return None
    visible = segments[:, :, None] == segments[:, None, :]
    if blocks is None:
        return visible
    same_block = blocks[:, :, None] == blocks[:, None, :]
    earlier_block = blocks[:, :, None] > blocks[:, None, :]
    if inputs.clean is None:
        return visible & (same_block | earlier_block)
    same_half = inputs.clean[:, :, None] == inputs.clean[:, None, :]
    return visible & ((same_block & same_half) | (earlier_block & inputs.clean[:, None, :]))


def block_starts(segments: Tensor, blocks: Tensor | None) -> Tensor:
    """[B, L] int64: the column at which each position's block starts; 0 where all is one block.

    Args:
        segments: [B, L] document numbers.
        blocks: [B, L] block numbers within each document, or None.
    """
    if blocks is None:
        return torch.zeros_like(segments)
    columns = torch.arange(blocks.shape[1], device=blocks.device).expand_as(blocks)
    starts = document_starts(segments)
    starts[:, 1:] |= blocks[:, 1:] != blocks[:, :-1]
    return torch.where(starts, columns, 0).cummax(-1).values


def noisy_then_clean(
    inputs: ModelInputs, noisy_tokens: Tensor, blocks: Tensor, predicts_from_clean: bool = True
) -> ModelInputs:
    """The layout in which every block is denoised at once, given the clean blocks before it.

    Args:
        inputs: the clean row, L positions.
        noisy_tokens: [B, L], the same with masks.
        blocks: [B, L] block numbers.
        predicts_from_clean: see `ModelInputs`.

    Returns:
        2L positions, the noisy half first (BD3LM, arXiv:2503.09573, section 3.3).
    """
    clean = torch.ones_like(noisy_tokens, dtype=torch.bool)
    return ModelInputs(
        tokens=torch.cat([noisy_tokens, inputs.tokens], dim=1),
        segments=torch.cat([inputs.segments, inputs.segments], dim=1),
        positions=torch.cat([inputs.positions, inputs.positions], dim=1),
        blocks=torch.cat([blocks, blocks], dim=1),
        clean=torch.cat([~clean, clean], dim=1),
        predicts_from_clean=predicts_from_clean,
    )
