"""Clean tokens given to noise: masked, or replaced by other tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from opendllm.registries.noise_schedules import NoiseMass


def replacements(tokens: NoiseMass, draws: Tensor, vocab_size: int, mask_token_id: int) -> Tensor:
    """The tokens that noise puts in the place of those that don't survive, int64.

    Args:
        tokens: b(z, t) of each position, any shape; only its proportions count.
        draws: uniform numbers in [0, 1), float64, of the same shape: the mask's share of them comes first,
            the other V - 1 tokens share the rest.
        vocab_size: V.
        mask_token_id: the mask token.
    """
    total = tokens.mask + (vocab_size - 1) * tokens.other
    share = torch.where(total > 0, tokens.mask / total, 1.0)
    place = (draws - share) / (1 - share).clamp(min=1e-300) * (vocab_size - 1)
    other = place.clamp(0, vocab_size - 2).long()
    other = other + (other >= mask_token_id)
    return torch.where(draws < share, mask_token_id, other)
