"""Attention within each document of packed rows, without a mask of L x L numbers.

On a GPU one variable-length kernel does it (`varlen_kernels`); elsewhere documents of equal length are
put side by side, so that a batch of T tokens takes at most sqrt(2 T) calls of the dense kernel.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from opendllm.core.networks.varlen_kernels import kernel_for
from opendllm.core.toolkit.segments import document_starts, visibility
from opendllm.registries.sequences import PADDING_SEGMENT, ModelInputs


@dataclass(frozen=True)
class EqualDocuments:
    """Documents of one length.

    Attributes:
        count: how many, G.
        length: of each.
        causal: whether each position sees itself and what is before it.
        visible: [G, 1, length, length] bool; None where all see all, or where causal.
    """

    count: int
    length: int
    causal: bool
    visible: Tensor | None


@dataclass(frozen=True)
class DocumentGroups:
    """All real positions of a batch, document by document, the shortest first.

    Attributes:
        order: [T] int64, positions in the flattened batch.
        groups: what `order` is made of.
    """

    order: Tensor
    groups: tuple[EqualDocuments, ...]


def group_documents(inputs: ModelInputs, blocks: Tensor | None) -> DocumentGroups:
    """Sort a batch's documents by length; nothing sees across them, whatever `blocks` say within.

    Args:
        inputs: the layout.
        blocks: [B, L] block numbers, or None where a document's positions all see each other.
    """
    segments = inputs.segments
    rows = torch.arange(segments.shape[0], device=segments.device)[:, None]
    names = (rows * (int(segments.max()) + 1) + segments).flatten()
    real = (segments.flatten() != PADDING_SEGMENT).nonzero().squeeze(1)
    by_document = real[names[real].argsort(stable=True)]
    _, lengths = names[by_document].unique_consecutive(return_counts=True)
    order = by_document[lengths.repeat_interleave(lengths).argsort(stable=True)]
    found, start = [], 0
    distinct, counts = lengths.sort().values.unique_consecutive(return_counts=True)
    for length, count in zip(distinct.tolist(), counts.tolist(), strict=True):
        flat_positions = order[start : start + length * count].view(count, length)
        found.append(_equal_documents(inputs, blocks, flat_positions))
        start += length * count
    return DocumentGroups(order, tuple(found))


def _equal_documents(inputs: ModelInputs, blocks: Tensor | None, flat_positions: Tensor) -> EqualDocuments:
    count, length = flat_positions.shape
    own_blocks = None if blocks is None else blocks.flatten()[flat_positions]
    clean = None if inputs.clean is None else inputs.clean.flatten()[flat_positions]
    if own_blocks is not None and clean is None and bool((own_blocks.diff() == 1).all()):
        return EqualDocuments(count, length, causal=True, visible=None)
    alone = ModelInputs(flat_positions, torch.zeros_like(flat_positions), flat_positions, own_blocks, clean)
    visible = visibility(alone, own_blocks)
    return EqualDocuments(count, length, False, None if visible is None else visible[:, None])


def attend_in_groups(
    query: Tensor, key: Tensor, value: Tensor, groups: DocumentGroups, scale: float | None, dropout: float
) -> Tensor:
    """Attention [B, H, L, K] -> [B, L, H, K]; padding gets zeros."""
    rows, _, length, size = query.shape
    sizes = [group.count * group.length for group in groups.groups]
    split = [_in_order(states, groups.order).split(sizes) for states in (query, key, value)]
    outputs = []
    for group, *states in zip(groups.groups, *split, strict=True):
        q, k, v = (s.view(group.count, group.length, *s.shape[1:]).transpose(1, 2) for s in states)
        output = scaled_dot_product_attention(
            q, k, v, group.visible, dropout_p=dropout, is_causal=group.causal, scale=scale,
            enable_gqa=q.shape[1] != k.shape[1],
        )  # fmt: skip
        outputs.append(output.transpose(1, 2).flatten(0, 1))
    flat = query.new_zeros(rows * length, query.shape[1], size)
    if not outputs:
        return flat.view(rows, length, query.shape[1], size)
    return flat.index_copy(0, groups.order, torch.cat(outputs)).view(rows, length, query.shape[1], size)


def _in_order(states: Tensor, order: Tensor) -> Tensor:
    """[B, H, L, K] -> [T, H, K]."""
    return states.transpose(1, 2).flatten(0, 1).index_select(0, order)


@dataclass(frozen=True)
class DocumentRuns:
    """Documents that lie one after the other in the flattened batch, padding among them.

    Attributes:
        bounds: [N + 1] int32, where each begins, and the end.
        longest: of them.
        causal: whether each position sees itself and what is before it.
    """

    bounds: Tensor
    longest: int
    causal: bool


def document_runs(inputs: ModelInputs, blocks: Tensor | None) -> DocumentRuns | None:
    """The batch as a variable-length kernel wants it; None where it can't say who sees whom.

    Args:
        inputs: the layout.
        blocks: [B, L] block numbers, or None where a document's positions all see each other.
    """
    if inputs.clean is not None:
        return None
    segments, starts = inputs.segments, document_starts(inputs.segments)
    real = segments != PADDING_SEGMENT
    if blocks is not None:
        counts_on = (blocks[:, 1:] - blocks[:, :-1] == 1) | starts[:, 1:] | ~real[:, 1:]
        if not bool(counts_on.all()):
            return None
    rows = torch.arange(segments.shape[0], device=segments.device)[:, None]
    names = rows * (int(segments.max()) + 1) + segments
    if len(names[real].unique()) != int((starts & real).sum()):
        return None  # padding or another document lies within one
    bounds = torch.cat(
        [starts.flatten().nonzero().squeeze(1), starts.new_full((1,), starts.numel(), dtype=torch.int64)]
    )
    return DocumentRuns(bounds.int(), int(bounds.diff().max()), causal=blocks is not None)


def attend_in_runs(
    query: Tensor, key: Tensor, value: Tensor, runs: DocumentRuns, scale: float | None
) -> Tensor | None:
    """Attention [B, H, L, K] -> [B, L, H, K] in half precision on a GPU; None where no kernel computes it."""
    rows, _, length, _ = query.shape
    kernel = kernel_for((query.shape[1], key.shape[1], query.shape[3]), query.dtype, runs.causal)
    if kernel is None:
        return None
    q, k, v = (states.transpose(1, 2).flatten(0, 1) for states in (query, key, value))
    output = kernel.load()(q, k, v, runs.bounds, runs.longest, runs.causal, scale)
    return output.view(rows, length, *output.shape[1:])
