"""Answers as tests write them down: rows, and masks that are given instead of drawn."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from opendllm.core.toolkit.noise import AddressedNoise
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.policies import PolicyObjective, Rollouts
from opendllm.registries.sequences import PADDING_SEGMENT, AttentionPattern, TokenIds, TokenRows

NEVER = 1 - 2**-53
"""The largest number that noise can be."""


def policy_objective(name: str, **options: Any) -> PolicyObjective:
    """The built-in one."""
    found: object = installed_plugins().objectives.get(name).build(options)
    assert isinstance(found, PolicyObjective)
    return found


@dataclass(frozen=True)
class GivenNoise:
    """Numbers that were written down.

    Attributes:
        length: L.
        rows: by stream, [B].
        tokens: by stream, [B, L].
    """

    length: int
    rows: dict[str, Tensor] = field(default_factory=dict)
    tokens: dict[str, Tensor] = field(default_factory=dict)

    def per_row(self, stream: str) -> Tensor:
        return self.rows[stream].double()[:, None]

    def per_row_stratified(self, stream: str) -> Tensor:
        raise AssertionError("answers aren't spread over a batch")

    def per_document(self, stream: str) -> Tensor:
        return self.rows[stream].double()[:, None].expand(-1, self.length)

    def per_token(self, stream: str) -> Tensor:
        return self.tokens[stream].double()


def masking(masked: Tensor) -> Tensor:
    """Numbers for a mask: below every share where it masks, above every one elsewhere."""
    return torch.where(masked.bool(), 0.0, NEVER)


def rows_of(
    tokens: Tensor, maskable: Tensor, ids: TokenIds, hidden: Tensor | None = None, first_sample: int = 0
) -> TokenRows:
    """One answer a row, [B, L] each; what is `hidden` is padding."""
    segments = torch.zeros_like(tokens)
    if hidden is not None:
        segments[hidden] = PADDING_SEGMENT
    positions = torch.arange(tokens.shape[1]).expand_as(tokens)
    sample_index = torch.arange(first_sample, first_sample + len(tokens))
    return TokenRows(tokens, segments, positions, maskable, sample_index, ids=ids)


def drawn_rollouts(
    seed: int, answers: int = 4, pattern: AttentionPattern | None = None, first_sample: int = 0
) -> Rollouts:
    """Answers of several lengths to prompts of several lengths, padded on the right; 12 ids, 11 the mask."""
    generator = torch.Generator().manual_seed(seed)

    def numbers(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, shape, generator=generator)

    prompts, completion = numbers(1, 6, answers, 1), 9
    columns = torch.arange(5 + completion + 1).expand(answers, -1)
    maskable = (columns >= prompts) & (columns < prompts + completion)
    tokens = numbers(1, 11, *columns.shape)
    lengths = numbers(1, completion + 1, answers, 1)
    counted = maskable & (columns < prompts + lengths)
    committed = torch.where(maskable, numbers(1, 8, *columns.shape), 0)
    rows = rows_of(tokens, maskable, TokenIds(12, 11), columns >= prompts + completion, first_sample)
    if pattern is not None:
        rows = replace(rows, blocks=pattern.blocks(rows.positions))
    return Rollouts(rows, counted, committed, completion)


def noise_of(rollouts: Rollouts, seed: int = 5) -> AddressedNoise:
    """As the trainer's."""
    return AddressedNoise(seed, rollouts.rows, len(rollouts.rows.tokens))
