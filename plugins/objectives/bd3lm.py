"""Block diffusion."""

from __future__ import annotations

from opendllm.core.toolkit.block_corruption import blocks_of, noisy_and_clean, with_complement
from opendllm.core.toolkit.segments import block_starts
from opendllm.plugins.objectives import Bd3lmOptions
from opendllm.registries.noise_schedules import NoiseSchedule
from opendllm.registries.objectives import Corruption, Masking, Noise, Objective
from opendllm.registries.sequences import TokenRows

MIN_TIME = 1e-3


class Bd3lm(Objective):
    """sum w(t_block) m ce / maskable tokens, one time a block (BD3LM, arXiv:2503.09573, eq. 8).

    The model reads the noisy row followed by the clean one (2L positions): a noisy block sees
    itself and the clean blocks before it, so all blocks train in one pass.
    """

    def __init__(self, options: Bd3lmOptions) -> None:
        self._complementary = options.complementary_masks

    def mask(self, rows: TokenRows, noise: Noise, schedule: NoiseSchedule) -> Masking:
        """One time a block, in [1e-3, 1] of the schedule's interval."""
        drawn = noise.per_token("time").gather(1, block_starts(rows.segments, blocks_of(rows, "bd3lm")))
        low, high = schedule.interval
        time = low + (high - low) * ((1 - MIN_TIME) * drawn + MIN_TIME)
        probability = schedule.mask_probability(time)
        return Masking(rows.maskable & (noise.per_token("mask") < probability), probability, time, rows)

    def corrupt(self, masking: Masking, schedule: NoiseSchedule, mask_token_id: int) -> Corruption:
        """The noisy half and the clean half; only the noisy one is scored."""
        if self._complementary:
            masking = with_complement(masking, schedule)
        blocks = blocks_of(masking.rows, "bd3lm")
        return noisy_and_clean(
            masking,
            blocks,
            mask_token_id,
            weight=schedule.elbo_weight(masking.time),
            count=masking.rows.maskable.sum(),
        )
