"""Segment-aware attention for transformers' stock models.

transformers hands unknown keyword arguments of a model's forward down to its attention function,
and prepares no mask for a function that it doesn't know. So the one registered here receives
`layout` from `TransformersLM`, and nothing else decides who sees whom.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from opendllm.core.foundation.notices import warn_once
from opendllm.core.networks.segment_kernels import (
    DocumentGroups,
    DocumentRuns,
    attend_in_groups,
    attend_in_runs,
    document_runs,
    group_documents,
)
from opendllm.core.networks.varlen_kernels import HOPPER, mistake, takes_varlen
from opendllm.core.toolkit.segments import visibility
from opendllm.registries.sequences import ModelInputs

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.nn.attention.flex_attention import BlockMask

ATTENTION_NAME = "opendllm_segments"
FLEX_FROM_LENGTH = 8192
"""Where no variable-length kernel serves, shorter rows are faster on a GPU under a dense mask
(benchmarks/attention.py, on an H200)."""


class AttentionLayout:
    """Who sees whom in one forward pass: worked out once, read by every layer."""

    def __init__(self, inputs: ModelInputs, blocks: Tensor | None) -> None:
        """Take the layout in.

        Args:
            inputs: the rows.
            blocks: [B, L] block numbers, or None where a document's positions all see each other.
        """
        self._inputs = inputs
        self._blocks = blocks

    def work_out(self) -> None:
        """Wait for the device now for what is read of it later: lengths, and whether rows are whole."""
        if not self.everything_is_visible and self._inputs.segments.is_cuda:
            _ = self.runs

    @cached_property
    def visible(self) -> Tensor | None:
        """[B, L, L] bool; None where all see all."""
        return visibility(self._inputs, self._blocks)

    @cached_property
    def everything_is_visible(self) -> bool:
        """One document a row, no padding, no blocks."""
        segments = self._inputs.segments
        return (
            self._blocks is None and self._inputs.clean is None and bool((segments == segments[:, :1]).all())
        )

    @cached_property
    def block_mask(self) -> BlockMask:
        """The same for flex attention, which skips tiles that nobody sees and keeps no L x L mask."""
        segments, clean = self._inputs.segments, self._inputs.clean
        rows, length = segments.shape

        def sees_document(row: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            same: Tensor = segments[row, query] == segments[row, key]
            return same

        if self._blocks is None and clean is None:
            documents: BlockMask = _compiled_block_mask()(
                sees_document, rows, None, length, length, device=str(segments.device)
            )
            return documents
        blocks = torch.zeros_like(segments) if self._blocks is None else self._blocks
        clean = torch.ones_like(segments, dtype=torch.bool) if clean is None else clean

        def sees(row: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            same_document = segments[row, query] == segments[row, key]
            same_block = blocks[row, query] == blocks[row, key]
            same_half = clean[row, query] == clean[row, key]
            earlier = (blocks[row, key] < blocks[row, query]) & clean[row, key]
            return same_document & ((same_block & same_half) | earlier)

        mask: BlockMask = _compiled_block_mask()(
            sees, rows, None, length, length, device=str(segments.device)
        )
        return mask

    @cached_property
    def runs(self) -> DocumentRuns | None:
        """The same for a variable-length kernel; None where it can't be said so."""
        return document_runs(self._inputs, self._blocks)

    @cached_property
    def groups(self) -> DocumentGroups:
        """The same as documents sorted by length."""
        return group_documents(self._inputs, self._blocks)

    def wants_flex(self, query: Tensor) -> bool:
        """Whether flex attention should compute this layout for `query` [B, H, L, K]."""
        head_size = query.shape[-1]
        fits = head_size >= 16 and head_size & (head_size - 1) == 0
        return query.is_cuda and fits and query.shape[2] >= FLEX_FROM_LENGTH


@dataclass(frozen=True)
class CanvasLayout:
    """Who sees whom in one pass over a canvas, which may be a pass over some of its columns.

    Attributes:
        visible: [B, Q or 1, L] bool, the keys that each query sees; None where all see all.
    """

    visible: Tensor | None


def segment_attention(
    _module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    _attention_mask: Tensor | None,
    *,
    layout: AttentionLayout | CanvasLayout,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_of_other_backends: Any,
) -> tuple[Tensor, None]:
    """Scaled dot-product attention [B, H, Q, K] -> [B, Q, H, K] within `layout`."""
    if isinstance(layout, CanvasLayout):
        return dense_attention(query, key, value, layout.visible, scaling, dropout), None
    return _document_attention(query, key, value, layout, scaling, dropout), None


# Each batch has documents of other lengths, for which a compiled one would be compiled anew.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def _document_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: AttentionLayout,
    scaling: float | None,
    dropout: float,
) -> Tensor:
    """By whatever kernel serves packed documents best."""
    packed = not layout.everything_is_visible
    if packed and takes_varlen(query) and layout.runs is not None and not dropout:
        of_documents = attend_in_runs(query, key, value, layout.runs, scaling)
        if of_documents is not None:
            return of_documents
    if packed and query.device.type == "cpu":
        return attend_in_groups(query, key, value, layout.groups, scaling, dropout)
    if packed and layout.wants_flex(query):
        grouped = query.shape[1] != key.shape[1]
        output = _compiled_flex()(
            query, key, value, block_mask=layout.block_mask, scale=scaling, enable_gqa=grouped
        )
        return output.transpose(1, 2).contiguous()
    return dense_attention(query, key, value, layout.visible, scaling, dropout)


def dense_attention(
    query: Tensor, key: Tensor, value: Tensor, visible: Tensor | None, scaling: float | None, dropout: float
) -> Tensor:
    """[B, Q, H, K] from [B, H, Q, K] queries, under a mask [B, Q or 1, L] of who sees whom, or None."""
    rows, heads, queries, size = query.shape
    groups = heads // key.shape[1]
    mask = None if visible is None else visible[:, None].to(query.device)
    if groups > 1 and queries < key.shape[2]:
        # A few queries beside kept keys: the heads that share keys read them as queries of one head,
        # where repeating them would copy what there is most of.
        query = query.reshape(rows, heads // groups, groups * queries, size)
        if mask is not None and mask.shape[2] > 1:
            mask = mask.repeat(1, 1, groups, 1)
    elif groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    with _whole_rows_by_cudnn(query, key, mask):
        output = scaled_dot_product_attention(query, key, value, mask, dropout_p=dropout, scale=scaling)
    # A GPU's kernels give it in another order of strides, which no view goes through.
    return output.reshape(rows, heads, queries, size).transpose(1, 2).contiguous()


def _whole_rows_by_cudnn(query: Tensor, key: Tensor, mask: Tensor | None) -> AbstractContextManager[None]:
    """On Hopper GPUs cuDNN's kernels take two thirds of flash-attention 2's time: 3.7 ms for 6.1, forward and
    backward, of 8 rows of 4096 tokens and 14 heads of 64.

    Only in training, and where no tile is cut: some versions compute NaN there (pytorch/pytorch#196678).
    """
    whole = mask is None and query.shape[2] == key.shape[2] and query.shape[2] % 128 == 0
    if not (whole and query.requires_grad and takes_varlen(query)):
        return nullcontext()
    if torch.cuda.get_device_capability() < HOPPER:
        return nullcontext()
    return _cudnn_first() if cudnn_is_right(query.shape[1], query.shape[3], query.dtype) else nullcontext()


@cache
def cudnn_is_right(heads: int, size: int, dtype: torch.dtype) -> bool:
    """Whether cuDNN's kernels train whole rows as plain attention does; what they get wrong is said once."""

    def attend(
        query: Tensor, key: Tensor, value: Tensor, _bounds: Tensor, longest: int, _causal: bool,
        scale: float | None,
    ) -> Tensor:  # fmt: skip
        q, k, v = (states.unflatten(0, (-1, longest)).transpose(1, 2) for states in (query, key, value))
        with _cudnn_first():
            output = scaled_dot_product_attention(q, k, v, scale=scale)
        return output.transpose(1, 2).flatten(0, 1)

    why = mistake(attend, (heads, heads, size), dtype, causal=False, documents=(384, 384))
    if why:
        warn_once(f"attention: cuDNN is left out for whole rows, for heads of {size} it {why}")
    return not why


def _cudnn_first() -> AbstractContextManager[None]:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    others = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    return sdpa_kernel([SDPBackend.CUDNN_ATTENTION, *others], set_priority=True)


@cache
def _compiled_block_mask() -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import create_block_mask

    # Uncompiled, it would write the whole L x L mask first, and take longer than the attention.
    return torch.compile(create_block_mask)


@cache
def _compiled_flex() -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    compiled: Callable[..., Tensor] = torch.compile(flex_attention)
    return compiled


AttentionInterface.register(ATTENTION_NAME, segment_attention)
