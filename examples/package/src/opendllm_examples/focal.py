"""The focal objective."""

from __future__ import annotations

from opendllm.registries.noise_schedules import NoiseSchedule
from opendllm.registries.objectives import Corruption, Masking, Noise, Objective
from opendllm.registries.sequences import TokenRows
from torch import Tensor

from opendllm_examples import FocalOptions

MIN_TIME = 1e-3


class Focal(Objective):
    """The mean of (1 - p)^gamma ce over masked tokens, p the model's probability of the right one.

    Focal loss (Lin et al., arXiv:1708.02002, eq. 4) in the place of masked diffusion's weight: what is learnt
    already hardly counts. Every masked token weighs the same, however much is masked.
    """

    def __init__(self, options: FocalOptions) -> None:
        self._gamma = options.gamma

    def mask(self, rows: TokenRows, noise: Noise, schedule: NoiseSchedule) -> Masking:
        """One time a row, spread evenly over the global batch."""
        low, high = schedule.interval
        drawn = noise.per_row_stratified("time")
        time = (low + (high - low) * (MIN_TIME + (1 - MIN_TIME) * drawn)).expand(rows.tokens.shape)
        probability = schedule.mask_probability(time)
        return Masking(rows.maskable & (noise.per_token("mask") < probability), probability, time, rows)

    def corrupt(self, masking: Masking, schedule: NoiseSchedule, mask_token_id: int) -> Corruption:
        """Hide the masked tokens; each weighs 1."""
        weight = masking.mask_probability * 0 + 1
        return Corruption.of_masked(masking, mask_token_id, weight=weight, count=masking.masked.sum())

    def loss_sum(self, negative_log_likelihood: Tensor, corruption: Corruption) -> Tensor:
        """Each term hangs on its own position's likelihood [N] alone: the trainer takes the sum in parts."""
        # 1 - p from -log p without cancellation; its gradient stays finite where p is 1.
        miss = -(-negative_log_likelihood).expm1()
        return (corruption.weight * miss.clamp(min=1e-6) ** self._gamma * negative_log_likelihood).sum()
