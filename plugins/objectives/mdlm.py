"""The NELBO of masked diffusion."""

from __future__ import annotations

from opendllm.core.toolkit.block_corruption import with_complement
from opendllm.plugins.objectives import MdlmOptions
from opendllm.registries.noise_schedules import NoiseSchedule
from opendllm.registries.objectives import Corruption, Masking, Noise, Objective
from opendllm.registries.sequences import TokenRows

MIN_TIME = 1e-3


class Mdlm(Objective):
    """sum w(t) m ce / maskable tokens (MDLM, arXiv:2406.07524, eq. 10; MD4, arXiv:2406.04329)."""

    def __init__(self, options: MdlmOptions) -> None:
        self._complementary = options.complementary_masks
        self._antithetic = options.times == "antithetic"

    def mask(self, rows: TokenRows, noise: Noise, schedule: NoiseSchedule) -> Masking:
        """One time a row, in [1e-3, 1] of the schedule's interval."""
        drawn = noise.per_row_stratified("time") if self._antithetic else noise.per_row("time")
        low, high = schedule.interval
        time = low + (high - low) * ((1 - MIN_TIME) * drawn + MIN_TIME)
        time = time.expand(rows.tokens.shape)
        probability = schedule.mask_probability(time)
        return Masking(rows.maskable & (noise.per_token("mask") < probability), probability, time, rows)

    def corrupt(self, masking: Masking, schedule: NoiseSchedule, mask_token_id: int) -> Corruption:
        """Hide the masked tokens; weigh each with the schedule's ELBO weight at its row's time."""
        if self._complementary:
            masking = with_complement(masking, schedule)
        weight = schedule.elbo_weight(masking.time)
        return Corruption.of_masked(masking, mask_token_id, weight=weight, count=masking.rows.maskable.sum())
