"""The bound of uniform noise."""

from __future__ import annotations

from torch import Tensor

from opendllm.core.toolkit.corrupting import noise_level, noised
from opendllm.core.toolkit.noise_bound import NoiseAt, NoisyTokens, bound
from opendllm.plugins.objectives import DuoOptions
from opendllm.registries.noise_schedules import NoiseSchedule
from opendllm.registries.objectives import Corruption, Masking, Noise, Objective, ScoredPositions
from opendllm.registries.sequences import TokenRows

MIN_TIME = 1e-3


class Duo(Objective):
    """The NELBO of uniform noise a maskable token (Duo, arXiv:2506.10892; s-sahoo/duo @7c9b498f).

    All V ids are noise, the mask token too, and all of them are predicted.
    """

    reads_distributions = True

    def __init__(self, options: DuoOptions) -> None:
        self._antithetic = options.times == "antithetic"
        self._time_conditioning = options.time_conditioning

    def mask(self, rows: TokenRows, noise: Noise, schedule: NoiseSchedule) -> Masking:
        """One time a row, in [1e-3, 1] of the schedule's interval."""
        drawn = noise.per_row_stratified("time") if self._antithetic else noise.per_row("time")
        low, high = schedule.interval
        time = low + (high - low) * ((1 - MIN_TIME) * drawn + MIN_TIME)
        return noised(rows, time, noise, schedule)

    def corrupt(self, masking: Masking, schedule: NoiseSchedule, mask_token_id: int) -> Corruption:
        """Every maskable token is scored, whether it was replaced or not."""
        model_time = noise_level(schedule, masking.time) if self._time_conditioning else None
        return Corruption.of_replaced(masking, count=masking.rows.maskable.sum(), model_time=model_time)

    def position_losses(self, logits: Tensor, positions: ScoredPositions, schedule: NoiseSchedule) -> Tensor:
        """The bound's integrand at each position's time."""
        tokens = NoisyTokens(positions.clean, positions.noisy, positions.ids.mask_token_id)
        return bound(logits, tokens, NoiseAt.of(schedule, positions.time, positions.ids.size))
