"""UDLM's objective."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from opendllm.core.toolkit.block_corruption import in_pairs
from opendllm.core.toolkit.corrupting import noise_level, noised
from opendllm.core.toolkit.noise_bound import NoiseAt, NoisyTokens, bound
from opendllm.plugins.objectives import UdlmOptions
from opendllm.registries.noise_schedules import NoiseSchedule
from opendllm.registries.objectives import Corruption, Masking, Noise, Objective, ScoredPositions
from opendllm.registries.sequences import TokenRows

MIN_TIME = 1e-3
CLOCK = 1 - 1e-3
"""What is corrupted at time CLOCK t is weighed as if it had been at t."""


class Udlm(Objective):
    """Uniform noise's NELBO and the cross-entropy of the clean row (UDLM, arXiv:2412.10193).

    As kuleshov-group/discrete-diffusion-guidance @edb0f8c2 computes it: corrupted with alpha = 1 - .999 t,
    weighed with alpha = 1 - t; and, unless `zero_recon_loss`, the model reads each clean row too, at time 0.
    """

    reads_distributions = True

    def __init__(self, options: UdlmOptions) -> None:
        self._reconstructs = not options.zero_recon_loss
        self._time_conditioning = options.time_conditioning

    def mask(self, rows: TokenRows, noise: Noise, schedule: NoiseSchedule) -> Masking:
        """One time a row, in [1e-3, 1], spread evenly over the global batch."""
        time = (1 - MIN_TIME) * noise.per_row_stratified("time") + MIN_TIME
        return noised(rows, CLOCK * time, noise, schedule)

    def corrupt(self, masking: Masking, schedule: NoiseSchedule, mask_token_id: int) -> Corruption:
        """Every maskable token is scored; and once more in the clean row after it, whose time is 0."""
        model_time = noise_level(schedule, masking.time) if self._time_conditioning else None
        count = masking.rows.maskable.sum()
        masking = replace(masking, time=masking.time / CLOCK)
        if self._reconstructs:
            masking = _with_clean_rows(masking)
            model_time = None if model_time is None else in_pairs(model_time, model_time * 0)
        return Corruption.of_replaced(masking, count=count, model_time=model_time)

    def position_losses(self, logits: Tensor, positions: ScoredPositions, schedule: NoiseSchedule) -> Tensor:
        """The bound's integrand; the cross-entropy in a clean row."""
        clean_row = positions.time == 0
        time = positions.time.masked_fill(clean_row, 0.5)  # any that the bound has a value at
        tokens = NoisyTokens(positions.clean, positions.noisy, positions.ids.mask_token_id)
        of_noise = bound(logits, tokens, NoiseAt.of(schedule, time, positions.ids.size))
        if not self._reconstructs:
            return of_noise
        surprise = cross_entropy(logits, positions.clean, reduction="none")
        return torch.where(clean_row, surprise.double(), of_noise)


def _with_clean_rows(masking: Masking) -> Masking:
    """2B rows: after each noisy one the clean one, at time 0."""
    rows, noisy = masking.rows, masking.noisy
    assert noisy is not None
    doubled = TokenRows(
        in_pairs(rows.tokens, rows.tokens),
        in_pairs(rows.segments, rows.segments),
        in_pairs(rows.positions, rows.positions),
        in_pairs(rows.maskable, rows.maskable),
        in_pairs(rows.sample_index, rows.sample_index),
        ids=rows.ids,
    )
    return Masking(
        in_pairs(masking.masked, torch.zeros_like(masking.masked)),
        in_pairs(masking.mask_probability, masking.mask_probability * 0),
        in_pairs(masking.time, masking.time * 0),
        doubled,
        in_pairs(noisy, rows.tokens),
    )
