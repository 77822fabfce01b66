"""GIDD's objective."""

from __future__ import annotations

import torch
from torch import Tensor

from opendllm.core.toolkit.corrupting import noise_level, noised
from opendllm.core.toolkit.noise_bound import NoiseAt, NoisyTokens, divergence, rate
from opendllm.plugins.objectives import GiddOptions
from opendllm.registries.noise_schedules import NoiseSchedule
from opendllm.registries.objectives import Corruption, Masking, Noise, Objective, ScoredPositions
from opendllm.registries.sequences import TokenIds, TokenRows


class Gidd(Objective):
    """sum weight (KL(q || p) + rho - 1 - ln rho) / maskable tokens (GIDD, arXiv:2503.04482).

    Weights of dvruette/gidd @f67acc96 and, by log-SNR, of dvruette/gidd-easydel @6525e88f; with `elbo` it is
    the bound.
    """

    reads_distributions = True

    def __init__(self, options: GiddOptions) -> None:
        self._weighting = options.weighting
        self._limits = (options.min_weight, options.largest_weight)
        self._antithetic = options.times == "antithetic"
        self._time_conditioning = options.time_conditioning

    def mask(self, rows: TokenRows, noise: Noise, schedule: NoiseSchedule) -> Masking:
        """One time a row, in the schedule's interval."""
        drawn = noise.per_row_stratified("time") if self._antithetic else noise.per_row("time")
        low, high = schedule.interval
        return noised(rows, low + (high - low) * drawn, noise, schedule)

    def corrupt(self, masking: Masking, schedule: NoiseSchedule, mask_token_id: int) -> Corruption:
        """Every maskable token is scored, whether it was replaced or not."""
        model_time = noise_level(schedule, masking.time) if self._time_conditioning else None
        return Corruption.of_replaced(masking, count=masking.rows.maskable.sum(), model_time=model_time)

    def position_losses(self, logits: Tensor, positions: ScoredPositions, schedule: NoiseSchedule) -> Tensor:
        """The bound's integrand, under the weight that is asked for."""
        tokens = NoisyTokens(positions.clean, positions.noisy, positions.ids.mask_token_id)
        noise = NoiseAt.of(schedule, positions.time, positions.ids.size)
        return self._weight(tokens, noise, positions, schedule) * divergence(logits, tokens, noise)

    def _weight(
        self, tokens: NoisyTokens, noise: NoiseAt, positions: ScoredPositions, schedule: NoiseSchedule
    ) -> Tensor:
        """[n] float64."""
        if self._weighting == "elbo":
            return rate(tokens, noise)
        if self._weighting == "dynamic":
            weight = dynamic_weight(tokens, positions.time, schedule, positions.ids)
        else:
            weight = rate(tokens, noise)
            if self._weighting == "log-snr":
                weight = weight * noise.alpha * (1 - noise.alpha)
        return weight.clamp(*self._limits)


def dynamic_weight(tokens: NoisyTokens, time: Tensor, schedule: NoiseSchedule, ids: TokenIds) -> Tensor:
    """[n] float64: 2 at a mask, 1 at another token, B/V exp(sigmoid(-t) / 2) where the clean one stands.

    B is the schedule's own: uniform noise over masks at t = 1/2.
    """
    middle = schedule.noise_mass(torch.full_like(time[:1], 0.5), ids.size)
    scale = (ids.size - 1) * middle.other / middle.mask
    kept = scale / ids.size * torch.exp(torch.sigmoid(-time) / 2)
    replaced = torch.where(tokens.masked, 2.0, 1.0).to(kept)
    return torch.where(tokens.survived, kept, replaced)
