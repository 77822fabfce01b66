"""Readings of answers behind masks: the same rows several times, each time with other tokens hidden."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from opendllm.core.toolkit.policy_losses import TermShares
from opendllm.registries.policies import PolicyReading, Rollouts
from opendllm.registries.sequences import ModelInputs


@dataclass(frozen=True)
class MaskedView:
    """The rows as they are read once.

    Attributes:
        masked: [B, L] bool, where the mask token stands.
        scored: [B, L] bool, which of the masked tokens are.
        weight: [B, L] float64, of their likelihoods.
        segments: [B, L] int64, of what is seen.
    """

    masked: Tensor
    scored: Tensor
    weight: Tensor
    segments: Tensor


@dataclass(frozen=True)
class Terms:
    """M terms of some views, one a token of an answer; a token may have one in each of several views.

    Attributes:
        number: [V, B, L] int64, the term that a scored token of each view is part of.
        row: [M] int64.
        column: [M] int64.
        sequence: [M] int64, what a mean over each sequence first is over: an answer, or a view of one.
    """

    number: Tensor
    row: Tensor
    column: Tensor
    sequence: Tensor


def terms_of_tokens(counted: Tensor, views: int) -> Terms:
    """One term a token that is counted [B, L], which all of the views make up together."""
    number = counted.flatten().cumsum(0).sub(1).clamp(min=0).view_as(counted)
    row, column = counted.nonzero(as_tuple=True)
    return Terms(number.expand(views, *counted.shape), row, column, sequence=row)


def terms_of_views(views: Sequence[MaskedView]) -> Terms:
    """One term a scored token of each view."""
    scored = torch.stack([view.scored for view in views])
    number = scored.flatten().cumsum(0).sub(1).clamp(min=0).view_as(scored)
    view, row, column = scored.nonzero(as_tuple=True)
    return Terms(number, row, column, sequence=view * scored.shape[1] + row)


def masked_reading(
    rollouts: Rollouts,
    views: Sequence[MaskedView],
    terms: Terms,
    shares: TermShares,
    guidance_scale: float = 0.0,
) -> PolicyReading:
    """All views in one reading, [V * B, L], a view after the other.

    Args:
        rollouts: the answers.
        views: how they are read; with guidance, the last half of them without the prompt.
        terms: what their scored tokens are part of.
        shares: what the terms count.
        guidance_scale: see `PolicyReading`.
    """
    rows = rollouts.rows
    assert rows.ids is not None
    mask = rows.ids.mask_token_id
    scored = torch.stack([view.scored for view in views])
    asked = views if not guidance_scale else views[: len(views) // 2]
    first = scored[: len(asked)]
    return PolicyReading(
        inputs=ModelInputs(
            torch.cat([rows.tokens.masked_fill(view.masked, mask) for view in views]),
            torch.cat([view.segments for view in views]),
            rows.positions.repeat(len(views), 1),
        ),
        targets=rows.tokens.repeat(len(views), 1),
        scored=scored.flatten(0, 1),
        token=terms.number[: len(asked)][first],
        weight=torch.stack([view.weight for view in asked])[first],
        row=terms.row,
        column=terms.column,
        share=shares.share,
        kl_share=shares.kl_share,
        count=shares.count,
        guidance_scale=guidance_scale,
    )
