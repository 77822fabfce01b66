"""Objectives with one mistake each."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from opendllm.core.toolkit.corrupting import noised
from opendllm.core.toolkit.noise_bound import NoiseAt, NoisyTokens, bound
from opendllm.registries import ObjectiveOptions
from opendllm.registries.noise_schedules import Destination, NoiseSchedule
from opendllm.registries.objectives import Corruption, Masking, Noise, Objective, ScoredPositions
from opendllm.registries.options import Bound
from opendllm.registries.sequences import TokenRows

from .wrong import Wrong

OPTIONS = ObjectiveOptions
LEAST = 1e-3


class Right(Objective):
    """Masked diffusion's bound: sum w(t) ce over masked tokens, one time a row."""

    def __init__(self, options: ObjectiveOptions) -> None:
        pass

    def time(self, noise: Noise) -> Tensor:
        return (1 - LEAST) * noise.per_row("time") + LEAST

    def mask(self, rows: TokenRows, noise: Noise, schedule: NoiseSchedule) -> Masking:
        time = self.of_interval(self.time(noise), schedule).expand(rows.tokens.shape)
        probability = schedule.mask_probability(time)
        return Masking(rows.maskable & (noise.per_token("mask") < probability), probability, time, rows)

    def of_interval(self, time: Tensor, schedule: NoiseSchedule) -> Tensor:
        low, high = schedule.interval
        return low + (high - low) * time

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


class FirstDocumentOnly(Right):
    """Takes a packed row for one document, and what comes after it for padding."""

    def corrupt(self, masking: Masking, schedule: NoiseSchedule, mask_token_id: int) -> Corruption:
        weight, count = schedule.elbo_weight(masking.time), masking.rows.maskable.sum()
        scored = masking.masked & (masking.rows.segments == 0)
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


class WeighsForLinear(Right):
    """Draws by the schedule, and weighs as if it were the linear one."""

    def corrupt(self, masking: Masking, schedule: NoiseSchedule, mask_token_id: int) -> Corruption:
        count = masking.rows.maskable.sum()
        return Corruption.of_masked(masking, mask_token_id, weight=1 / masking.time, count=count)


class KnowsOnlyLinear(Right):
    """Masks with the chance t, whatever the schedule."""

    def mask(self, rows: TokenRows, noise: Noise, schedule: NoiseSchedule) -> Masking:
        time = self.of_interval(self.time(noise), schedule).expand(rows.tokens.shape)
        return Masking(rows.maskable & (noise.per_token("mask") < time), time, time, rows)

    def corrupt(self, masking: Masking, schedule: NoiseSchedule, mask_token_id: int) -> Corruption:
        count = masking.rows.maskable.sum()
        return Corruption.of_masked(masking, mask_token_id, weight=1 / masking.time, count=count)


class AlwaysHalf(Right):
    """One time for all, at which the mean number of masks is right."""

    at = 0.5

    def time(self, noise: Noise) -> Tensor:
        return torch.full_like(noise.per_row("time"), self.at)


class AlwaysThreeFifths(AlwaysHalf):
    at = 0.6


class OneDrawARow(Right):
    """All of a row's tokens are masked, or none."""

    def mask(self, rows: TokenRows, noise: Noise, schedule: NoiseSchedule) -> Masking:
        time = self.of_interval(self.time(noise), schedule).expand(rows.tokens.shape)
        probability = schedule.mask_probability(time)
        return Masking(rows.maskable & (noise.per_row("mask") < probability), probability, time, rows)


class OneStreamForBoth(Right):
    """A row's time is of the stream that masks its tokens."""

    def mask(self, rows: TokenRows, noise: Noise, schedule: NoiseSchedule) -> Masking:
        drawn = noise.per_token("noise")
        time = self.of_interval((1 - LEAST) * drawn[:, 1:2] + LEAST, schedule).expand(rows.tokens.shape)
        probability = schedule.mask_probability(time)
        return Masking(rows.maskable & (drawn < probability), probability, time, rows)


class CountsNothing(Right):
    def corrupt(self, masking: Masking, schedule: NoiseSchedule, mask_token_id: int) -> Corruption:
        return replace(super().corrupt(masking, schedule, mask_token_id), count=torch.zeros(()).double())


class CountsBelowNothing(Right):
    def corrupt(self, masking: Masking, schedule: NoiseSchedule, mask_token_id: int) -> Corruption:
        found = super().corrupt(masking, schedule, mask_token_id)
        return replace(found, count=-1000 * found.count)


class CountsItsVocabulary(Right):
    """Divides by positions times tokens, as a mean over logits does."""

    def corrupt(self, masking: Masking, schedule: NoiseSchedule, mask_token_id: int) -> Corruption:
        found = super().corrupt(masking, schedule, mask_token_id)
        return replace(found, count=found.count * (mask_token_id + 1))


class MeanOfMasked(Right):
    """A row's weight is divided by its masked tokens, of which there may be none."""

    def corrupt(self, masking: Masking, schedule: NoiseSchedule, mask_token_id: int) -> Corruption:
        share = masking.masked.sum() / masking.rows.maskable.sum()
        weight = schedule.elbo_weight(masking.time)
        return Corruption.of_masked(
            masking, mask_token_id, weight=weight, count=share * 0 + masking.masked.sum()
        )


class ShowsTheAnswer(Right):
    """Masks are drawn, weighed and scored, and the model reads the clean row."""

    def corrupt(self, masking: Masking, schedule: NoiseSchedule, mask_token_id: int) -> Corruption:
        found = super().corrupt(masking, schedule, mask_token_id)
        return replace(found, inputs=found.inputs.with_tokens(masking.rows.tokens))


class ScoresAll(Right):
    """What isn't hidden is scored too: to copy is to be right."""

    def corrupt(self, masking: Masking, schedule: NoiseSchedule, mask_token_id: int) -> Corruption:
        weight, rows = schedule.elbo_weight(masking.time), masking.rows
        count = rows.maskable.sum()
        return Corruption.of_masked(
            masking, mask_token_id, weight=weight, count=count, scored=rows.maskable.clone()
        )


class NoBoundOptions(ObjectiveOptions):
    """Of a loss that is weighed otherwise than its bound."""

    @property
    def loss_is_bound(self) -> bool:
        return False


class WritesIntoItsRows(Right):
    def mask(self, rows: TokenRows, noise: Noise, schedule: NoiseSchedule) -> Masking:
        found = super().mask(rows, noise, schedule)
        kept = rows.tokens.clone()
        rows.tokens.copy_(rows.tokens.masked_fill(found.masked, 0))
        return replace(found, rows=replace(rows, tokens=kept))


class SaysHalfTheChance(Right):
    def mask(self, rows: TokenRows, noise: Noise, schedule: NoiseSchedule) -> Masking:
        found = super().mask(rows, noise, schedule)
        return replace(found, mask_probability=found.mask_probability / 2)


class SaysAnotherTime(Right):
    """Draws with the chance of a time, and says another."""

    def mask(self, rows: TokenRows, noise: Noise, schedule: NoiseSchedule) -> Masking:
        found = super().mask(rows, noise, schedule)
        return replace(found, time=found.time**2)


class LeavesTheInterval(Right):
    """Times are from 0 to 1, whatever part the schedule trains on."""

    def of_interval(self, time: Tensor, schedule: NoiseSchedule) -> Tensor:
        return time


class Rewards(Right):
    """The sign of a reward in a loss."""

    def corrupt(self, masking: Masking, schedule: NoiseSchedule, mask_token_id: int) -> Corruption:
        found = super().corrupt(masking, schedule, mask_token_id)
        return replace(found, weight=-found.weight)


class UniformOptions(ObjectiveOptions):
    """Of noise that replaces tokens."""

    destinations: ClassVar[frozenset[Destination]] = frozenset({"uniform"})

    @property
    def bound(self) -> Bound:
        return "noise"


class RightOfUniform(Objective):
    """Uniform noise's bound, one time a row."""

    reads_distributions = True

    def __init__(self, options: UniformOptions) -> None:
        pass

    def time(self, noise: Noise) -> Tensor:
        return (1 - LEAST) * noise.per_row("time") + LEAST

    def mask(self, rows: TokenRows, noise: Noise, schedule: NoiseSchedule) -> Masking:
        low, high = schedule.interval
        return noised(rows, low + (high - low) * self.time(noise), noise, schedule)

    def corrupt(self, masking: Masking, schedule: NoiseSchedule, mask_token_id: int) -> Corruption:
        return Corruption.of_replaced(masking, count=masking.rows.maskable.sum())

    def position_losses(self, logits: Tensor, positions: ScoredPositions, schedule: NoiseSchedule) -> Tensor:
        tokens = NoisyTokens(positions.clean, positions.noisy, positions.ids.mask_token_id)
        return bound(logits, tokens, NoiseAt.of(schedule, positions.time, positions.ids.size))


class AlwaysHalfUniform(RightOfUniform):
    def time(self, noise: Noise) -> Tensor:
        return torch.full_like(noise.per_row("time"), 0.5)


class ReplacesNothing(RightOfUniform):
    """The model reads the clean row, and is scored on it."""

    def mask(self, rows: TokenRows, noise: Noise, schedule: NoiseSchedule) -> Masking:
        return replace(super().mask(rows, noise, schedule), noisy=rows.tokens)


class CrossEntropyOfNoise(RightOfUniform):
    """Plain cross-entropy, said to be the bound."""

    def position_losses(self, logits: Tensor, positions: ScoredPositions, schedule: NoiseSchedule) -> Tensor:
        return torch.nn.functional.cross_entropy(logits, positions.clean, reduction="none")


UNBIASED, LAW = "test_the_loss_is_unbiased", "test_the_loss_is_a_bound_of_a_known_law"
MICRO_BATCHES = "test_loss_sums_add_up_over_micro_batches"
LIKELY = "test_tokens_are_masked_as_likely_as_it_says"
SHOWN = "test_no_scored_token_is_shown"
INTERVAL = "test_times_keep_to_the_schedules_interval"
COUNT = "test_the_count_is_of_what_the_rows_hold"
WRONG = [
    Wrong(
        MasksPrompts,
        "test_prompts_and_padding_are_never_masked",
        "mask only where `rows.maskable`",
        watched=False,
    ),
    Wrong(
        ScoresPrompts,
        "test_prompts_and_padding_are_never_scored",
        "score only where `rows.maskable`",
        watched=False,
    ),
    Wrong(DrawsFromTorch, "test_the_same_noise_gives_the_same_corruption", "draw with `noise` only"),
    Wrong(
        WritesIntoItsRows,
        "test_the_same_noise_gives_the_same_corruption",
        "were changed in place: work on a copy",
    ),
    Wrong(MeanOfTheBatch, "test_a_row_is_corrupted_alike_in_any_batch", "weigh each row by itself"),
    Wrong(UnweighedMasks, UNBIASED, "loss_is_bound = False"),
    Wrong(WeighsForLinear, UNBIASED, "with mask noise of alpha = 1 - t^2"),
    Wrong(AlwaysHalf, UNBIASED, "where 1 of the tokens are hidden"),
    Wrong(AlwaysThreeFifths, UNBIASED, "where 1 of the tokens are hidden"),
    Wrong(OneDrawARow, UNBIASED, "chances that tokens are drawn with"),
    Wrong(OneStreamForBoth, UNBIASED, "chances that tokens are drawn with"),
    Wrong(AlwaysHalfUniform, UNBIASED, "by enumeration", options=UniformOptions),
    Wrong(CrossEntropyOfNoise, UNBIASED, "with uniform noise of", options=UniformOptions),
    Wrong(ForgetsHalf, LAW, "bound lies above"),
    Wrong(KnowsOnlyLinear, LIKELY, "mask_probability, against that of mask noise of alpha = 1 - t^2"),
    Wrong(SaysHalfTheChance, LIKELY, "give the chance that each was drawn with"),
    Wrong(SaysAnotherTime, LIKELY, "the schedule's time at which"),
    Wrong(LeavesTheInterval, INTERVAL, "draw them from `schedule.interval`"),
    Wrong(ShowsTheAnswer, SHOWN, "score only what is hidden from it", options=NoBoundOptions),
    Wrong(ScoresAll, SHOWN, "score only what is hidden from it", options=NoBoundOptions),
    Wrong(
        ReplacesNothing,
        "test_noise_leaves_no_more_than_the_schedule_says",
        "replace as many as the schedule says",
        options=UniformOptions,
    ),
    Wrong(FirstDocumentOnly, "test_every_token_gets_its_turn", "learn every document of a row"),
    Wrong(LearnsMasks, "test_scored_positions_have_their_clean_token_as_target", "before the noise"),
    Wrong(MeanOfTheLoss, "test_loss_sums_add_up_over_positions", "no mean, no normalising"),
    Wrong(CountsNothing, COUNT, "above 0 and at most 168"),
    Wrong(CountsBelowNothing, COUNT, "the count is -144000"),
    Wrong(CountsItsVocabulary, COUNT, "how many tokens, or texts, the loss is a mean over"),
    Wrong(
        MeanOfMasked, "test_rows_with_nothing_to_learn_count_for_nothing", "divide by nothing that can be 0"
    ),
    Wrong(Rewards, "test_less_surprise_is_a_smaller_loss", "weights are never negative"),
    Wrong(Detached, "test_the_loss_is_finite_and_has_gradients", "don't detach it"),
    Wrong(LearnsNothing, "test_a_gradient_reaches_every_parameter", "no gradient reaches"),
]
