"""Block diffusion."""

from __future__ import annotations

import torch
from torch import Tensor

from opendllm.core.toolkit.segments import block_starts, noisy_then_clean
from opendllm.plugins.objectives import Bd3lmOptions
from opendllm.registries.errors import UserError
from opendllm.registries.noise_schedules import NoiseSchedule
from opendllm.registries.objectives import Corruption, Masking, Noise, Objective
from opendllm.registries.sequences import ModelInputs, TokenRows

MIN_TIME = 1e-3


class Bd3lm(Objective):
    """sum w(t_block) m ce / maskable tokens, one time a block (BD3LM, arXiv:2503.09573, eq. 8).

    The model reads the noisy row followed by the clean one (2L positions): a noisy block sees
    itself and the clean blocks before it, so all blocks train in one pass.
    """

    def __init__(self, options: Bd3lmOptions) -> None:
        pass

    def mask(self, rows: TokenRows, noise: Noise, schedule: NoiseSchedule) -> Masking:
        """One time a block, in [1e-3, 1] of the schedule's interval."""
        drawn = noise.per_token("time").gather(1, block_starts(rows.segments, _blocks(rows)))
        low, high = schedule.interval
        time = low + (high - low) * ((1 - MIN_TIME) * drawn + MIN_TIME)
        probability = schedule.mask_probability(time)
        return Masking(rows.maskable & (noise.per_token("mask") < probability), probability, time, rows)

    def corrupt(self, masking: Masking, schedule: NoiseSchedule, mask_token_id: int) -> Corruption:
        """The noisy half and the clean half; only the noisy one is scored."""
        rows, masked = masking.rows, masking.masked
        noisy = torch.where(masked, mask_token_id, rows.tokens)
        clean = ModelInputs(rows.tokens, rows.segments, rows.positions)
        return Corruption(
            inputs=noisy_then_clean(clean, noisy, _blocks(rows)),
            targets=torch.cat([rows.tokens, rows.tokens], dim=1),
            scored=torch.cat([masked, torch.zeros_like(masked)], dim=1),
            weight=schedule.elbo_weight(masking.time[masked]),
            count=rows.maskable.sum().double(),
        )


def _blocks(rows: TokenRows) -> Tensor:
    if rows.blocks is None:
        raise UserError("objective bd3lm needs a model with block-causal attention")
    return rows.blocks
