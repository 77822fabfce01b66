"""Objectives with one mistake each."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from opendllm.registries import ObjectiveOptions
from opendllm.registries.noise_schedules import NoiseSchedule
from opendllm.registries.objectives import Corruption, Masking, Noise, Objective
from opendllm.registries.sequences import TokenRows

from .wrong import EVERYWHERE, Wrong

OPTIONS = ObjectiveOptions
LEAST = 1e-3


class Right(Objective):
    """Masked diffusion's bound: sum w(t) ce over masked tokens, one time a row."""

    def __init__(self, options: ObjectiveOptions) -> None:
        pass

    def time(self, noise: Noise) -> Tensor:
        return (1 - LEAST) * noise.per_row("time") + LEAST

    def mask(self, rows: TokenRows, noise: Noise, schedule: NoiseSchedule) -> Masking:
        time = self.time(noise).expand(rows.tokens.shape)
        probability = schedule.mask_probability(time)
        return Masking(rows.maskable & (noise.per_token("mask") < probability), probability, time, rows)

    def corrupt(self, masking: Masking, schedule: NoiseSchedule, mask_token_id: int) -> Corruption:
        weight = schedule.elbo_weight(masking.time)
        count = masking.rows.maskable.sum()
        return Corruption.of_masked(masking, mask_token_id, weight=weight, count=count)


class MasksPrompts(Right):
    def mask(self, rows: TokenRows, noise: Noise, schedule: NoiseSchedule) -> Masking:
        masking = super().mask(rows, noise, schedule)
        return replace(masking, masked=noise.per_token("mask") < masking.mask_probability)


class ScoresPrompts(Right):
    def corrupt(self, masking: Masking, schedule: NoiseSchedule, mask_token_id: int) -> Corruption:
        found = super().corrupt(masking, schedule, mask_token_id)
        prompts = masking.rows.segments >= 0
        prompts &= ~masking.rows.maskable
        weight = torch.zeros(masking.masked.shape, dtype=torch.float64)
        weight[found.scored] = found.weight
        scored = found.scored | prompts
        return replace(found, scored=scored, weight=weight[scored])


class DrawsFromTorch(Right):
    def time(self, noise: Noise) -> Tensor:
        return (1 - LEAST) * torch.rand(noise.per_row("time").shape, dtype=torch.float64) + LEAST


class MeanOfTheBatch(Right):
    """Weighs a row by how many tokens its batch has masked."""

    def corrupt(self, masking: Masking, schedule: NoiseSchedule, mask_token_id: int) -> Corruption:
        found = super().corrupt(masking, schedule, mask_token_id)
        share = masking.masked.sum() / masking.rows.maskable.sum()
        return replace(found, weight=found.weight * 0.5 / share)


class UnweighedMasks(Right):
    def corrupt(self, masking: Masking, schedule: NoiseSchedule, mask_token_id: int) -> Corruption:
        found = super().corrupt(masking, schedule, mask_token_id)
        return replace(found, weight=torch.ones_like(found.weight))


class ForgetsHalf(Right):
    """Half of the hidden tokens, which are unlucky, are never learnt: no longer a bound."""

    def corrupt(self, masking: Masking, schedule: NoiseSchedule, mask_token_id: int) -> Corruption:
        scored = masking.masked & (torch.arange(masking.masked.shape[1]) % 2 == 0)
        weight, count = schedule.elbo_weight(masking.time), masking.rows.maskable.sum()
        return Corruption.of_masked(masking, mask_token_id, weight=weight, count=count, scored=scored)


class LearnsMasks(Right):
    def corrupt(self, masking: Masking, schedule: NoiseSchedule, mask_token_id: int) -> Corruption:
        found = super().corrupt(masking, schedule, mask_token_id)
        return replace(found, targets=found.inputs.tokens.clamp(max=mask_token_id - 1))


class MeanOfTheLoss(Right):
    def loss_sum(self, negative_log_likelihood: Tensor, corruption: Corruption) -> Tensor:
        return (corruption.weight * negative_log_likelihood).mean()


class Detached(Right):
    def loss_sum(self, negative_log_likelihood: Tensor, corruption: Corruption) -> Tensor:
        return (corruption.weight * negative_log_likelihood.detach()).sum()


class LearnsNothing(Right):
    def corrupt(self, masking: Masking, schedule: NoiseSchedule, mask_token_id: int) -> Corruption:
        found = super().corrupt(masking, schedule, mask_token_id)
        return replace(found, weight=found.weight * 0)


BOUND = frozenset({"test_the_loss_is_unbiased", "test_the_loss_is_a_bound_of_a_known_law"})
WRONG = [
    Wrong(
        MasksPrompts,
        "test_prompts_and_padding_are_never_masked",
        "leave positions alone where `rows.maskable` is False",
        EVERYWHERE,
    ),
    Wrong(
        ScoresPrompts,
        "test_prompts_and_padding_are_never_scored",
        "leave positions alone where `rows.maskable` is False",
        EVERYWHERE,
    ),
    Wrong(
        DrawsFromTorch,
        "test_the_same_noise_gives_the_same_corruption",
        "draw with `noise` only",
        frozenset({"test_a_row_is_corrupted_alike_in_any_batch", "test_loss_sums_add_up_over_micro_batches"}),
    ),
    Wrong(
        MeanOfTheBatch,
        "test_a_row_is_corrupted_alike_in_any_batch",
        "weigh each row by itself",
        BOUND | {"test_loss_sums_add_up_over_micro_batches"},
    ),
    Wrong(UnweighedMasks, "test_the_loss_is_unbiased", "loss_is_bound = False", BOUND),
    Wrong(ForgetsHalf, "test_the_loss_is_a_bound_of_a_known_law", "bound lies above", BOUND),
    Wrong(LearnsMasks, "test_scored_positions_have_their_clean_token_as_target", "before the noise", BOUND),
    Wrong(
        MeanOfTheLoss,
        "test_loss_sums_add_up_over_positions",
        "no mean, no normalising",
        BOUND | {"test_loss_sums_add_up_over_micro_batches"},
    ),
    Wrong(
        Detached,
        "test_the_loss_is_finite_and_has_gradients",
        "don't detach it",
        frozenset({"test_a_gradient_reaches_every_parameter"}),
    ),
    Wrong(LearnsNothing, "test_a_gradient_reaches_every_parameter", "no gradient reaches", BOUND),
]
