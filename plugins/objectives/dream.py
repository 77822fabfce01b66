"""Dream's objective."""

from __future__ import annotations

import torch
from torch import Tensor

from opendllm.core.toolkit.block_corruption import with_complement
from opendllm.plugins.objectives import DreamOptions
from opendllm.registries.noise_schedules import NoiseSchedule
from opendllm.registries.objectives import Corruption, Masking, Noise, Objective
from opendllm.registries.sequences import PADDING_SEGMENT, TokenRows

MIN_TIME = 1e-3


class Dream(Objective):
    """sum m w ce / sum m, with w = 1/t, 1 - t or CART (Dream 7B, arXiv:2508.15487)."""

    def __init__(self, options: DreamOptions) -> None:
        self._complementary = options.complementary_masks
        self._weighting = options.weighting
        self._cart_p = options.cart_p

    def mask(self, rows: TokenRows, noise: Noise, schedule: NoiseSchedule) -> Masking:
        """t ~ U(1e-3, 1) per row; each token with probability t."""
        time = ((1 - MIN_TIME) * noise.per_row("time") + MIN_TIME).expand(rows.tokens.shape)
        return Masking(rows.maskable & (noise.per_token("mask") < time), time, time, rows)

    def corrupt(self, masking: Masking, schedule: NoiseSchedule, mask_token_id: int) -> Corruption:
        """Hide the masked tokens; weigh each as the option says."""
        if self._complementary:
            masking = with_complement(masking, schedule)
        if self._weighting == "cart":
            weight = cart_weights(masking.masked, masking.rows.segments, self._cart_p)
        elif self._weighting == "1-t":
            weight = 1 - masking.mask_probability
        else:
            weight = 1 / masking.mask_probability
        return Corruption.of_masked(masking, mask_token_id, weight=weight, count=masking.masked.sum())


def cart_weights(masked: Tensor, segments: Tensor, p: float) -> Tensor:
    """sum over the document's clean positions j of p/2 (1-p)^(|i-j|-1), as [B, L] float64.

    Each side is a decaying sum, built by doubling its reach: log2(L) passes and no L x L matrix.
    """
    clean = (~masked & (segments != PADDING_SEGMENT)).double()
    return (
        p
        / 2
        * (
            _decaying_sum(clean, segments, 1 - p)
            + _decaying_sum(clean.flip(1), segments.flip(1), 1 - p).flip(1)
        )
    )


def _decaying_sum(values: Tensor, segments: Tensor, decay: float) -> Tensor:
    """sum over d >= 1 of decay^(d-1) values[i-d], within the segment."""
    total = _shifted(values, segments, 1)
    reach = 1
    while reach < values.shape[1]:
        total = total + decay**reach * _shifted(total, segments, reach)
        reach *= 2
    return total


def _shifted(values: Tensor, segments: Tensor, by: int) -> Tensor:
    """values[i - by], 0 where that is another document."""
    shifted = torch.zeros_like(values)
    same = segments[:, by:] == segments[:, :-by]
    shifted[:, by:] = values[:, :-by] * same
    return shifted
