"""Token rows as they travel between data, objectives, models and decoders.

Shapes: B rows, L positions. Tensors of one object share a device.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from opendllm.registries.options import AttentionKind

if TYPE_CHECKING:
    import torch
    from torch import Tensor

PADDING_SEGMENT = -1
"""The document number of padding."""


@dataclass(frozen=True)
class AttentionPattern:
    """Which positions of a document see each other. It belongs to the checkpoint.

    Each position has a block number; a query sees the keys of its own and of earlier blocks. One
    block for all is bidirectional, one block a position is causal.

    Attributes:
        kind: of the pattern.
        block_length: in tokens, counted from a document's start; None where blocks aren't of one length.
    """

    kind: AttentionKind = "bidirectional"
    block_length: int | None = None

    def blocks(self, positions: Tensor) -> Tensor | None:
        """Block numbers [B, L] of `positions` [B, L]; None where everything sees everything."""
        if self.kind == "bidirectional":
            return None
        if self.kind == "causal":
            return positions
        assert self.block_length is not None
        return positions // self.block_length


@dataclass(frozen=True)
class TokenIds:
    """The ids that a model reads.

    Attributes:
        size: V; uniform noise draws from all of them.
        mask_token_id: one of them.
    """

    size: int
    mask_token_id: int


@dataclass(frozen=True)
class TokenRows:
    """Clean rows of packed documents.

    Attributes:
        tokens: [B, L] int64.
        segments: [B, L] int64, the document's number within its row; PADDING_SEGMENT on padding.
        positions: [B, L] int64, counting from 0 in each document.
        maskable: [B, L] bool, False on prompts and padding: such tokens are never corrupted.
        sample_index: [B] int64, the row's number in the whole run; it addresses the row's noise.
        blocks: [B, L] int64, the model's own attention blocks; None for a bidirectional model.
        ids: the model's; what masks tokens only needs none.
    """

    tokens: Tensor
    segments: Tensor
    positions: Tensor
    maskable: Tensor
    sample_index: Tensor
    blocks: Tensor | None = None
    ids: TokenIds | None = field(default=None, kw_only=True)

    def to(self, device: torch.device | str) -> TokenRows:
        """The same rows on another device."""
        return TokenRows(
            self.tokens.to(device),
            self.segments.to(device),
            self.positions.to(device),
            self.maskable.to(device),
            self.sample_index.to(device),
            None if self.blocks is None else self.blocks.to(device),
            ids=self.ids,
        )


@dataclass(frozen=True)
class ModelInputs:
    """What a model reads.

    A query attends to a key of the same segment when both have the same block and the same
    half, or when the key is in the clean half and in an earlier block. Ordinary inputs are one
    clean half; block diffusion (BD3LM, arXiv:2503.09573) puts a noisy half before it.

    Attributes:
        tokens: [B, L] int64.
        segments: [B, L] int64; PADDING_SEGMENT marks padding, which nothing attends to.
        positions: [B, L] int64, for the rotary embedding.
        blocks: [B, L] int64, or None to take the model's own pattern.
        clean: [B, L] bool, or None where all of it is clean.
        time: [B, L] float, how noisy each position is: -ln alpha(t), the time input of Duo and UDLM, which
            is the same in every schedule; or None where the model isn't told.
        predicts_from_clean: whether a noisy block's first token is predicted at the clean token before it, as
            when it is decoded, and not at the noisy one. Only a shifted model is told anything by it.
    """

    tokens: Tensor
    segments: Tensor
    positions: Tensor
    blocks: Tensor | None = None
    clean: Tensor | None = None
    time: Tensor | None = None
    predicts_from_clean: bool = False

    def with_tokens(self, tokens: Tensor) -> ModelInputs:
        """The same layout with other tokens [B, L]."""
        return replace(self, tokens=tokens)

    def rows(self, index: Tensor) -> ModelInputs:
        """Only the rows in `index` (int64 or bool)."""
        return ModelInputs(
            self.tokens[index],
            self.segments[index],
            self.positions[index],
            None if self.blocks is None else self.blocks[index],
            None if self.clean is None else self.clean[index],
            None if self.time is None else self.time[index],
            self.predicts_from_clean,
        )
