"""Clean tokens given to noise: masked, or replaced by other tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from opendllm.registries.noise_schedules import NoiseMass, NoiseSchedule
from opendllm.registries.objectives import Masking, Noise
from opendllm.registries.sequences import TokenIds, TokenRows

LEAST_ALPHA = 1e-12
"""No model is told of less: most schedules end at 0, whose logarithm no network can read."""


def noised(rows: TokenRows, time: Tensor, noise: Noise, schedule: NoiseSchedule) -> Masking:
    """Each maskable token survives with probability alpha(t), or gives way as the schedule says.

    Args:
        rows: with the model's ids.
        time: [B, L] or [B, 1] float64.
        noise: of which the streams `mask` and `token` are read.
        schedule: says how many give way, and to what.
    """
    assert rows.ids is not None, "noise that replaces tokens has to know the model's ids: set TokenRows.ids"
    time = time.expand(rows.tokens.shape)
    probability = schedule.mask_probability(time)
    gone = rows.maskable & (noise.per_token("mask") < probability)
    mass = schedule.noise_mass(time, rows.ids.size)
    noisy = torch.where(gone, replacements(mass, noise.per_token("token"), rows.ids), rows.tokens)
    return Masking(gone, probability, time, rows, noisy)


def replacements(mass: NoiseMass, draws: Tensor, ids: TokenIds) -> Tensor:
    """The tokens that noise puts in the place of those that don't survive, int64.

    Args:
        mass: b(z, t) of each position, any shape; only its proportions count.
        draws: uniform numbers in [0, 1), float64, of the same shape: the mask's share of them comes first,
            the other V - 1 tokens share the rest.
        ids: the model's.
    """
    others = ids.size - 1
    total = mass.mask + others * mass.other
    share = torch.where(total > 0, mass.mask / total, 1.0)
    scaled = (draws - share) / torch.where(share < 1, 1 - share, 1.0) * others
    token = scaled.clamp(0, others - 1).long()
    token = token + (token >= ids.mask_token_id)
    return torch.where(draws < share, ids.mask_token_id, token)


def noise_level(schedule: NoiseSchedule, time: Tensor) -> Tensor:
    """-ln alpha(t), what a model that is told the time reads: `ModelInputs.time`; finite where alpha is 0."""
    return -schedule.alpha(time).clamp(min=LEAST_ALPHA).log()
