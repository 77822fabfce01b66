"""Policy objectives with one mistake each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from opendllm.registries import PolicyObjectiveOptions
from opendllm.registries.errors import UserError
from opendllm.registries.objectives import Noise
from opendllm.registries.policies import (
    FixedTerms,
    PolicyLosses,
    PolicyObjective,
    PolicyReading,
    Rollouts,
)
from opendllm.registries.sequences import ModelInputs

from .wrong import Wrong

EPSILON = 0.2


class OPTIONS(PolicyObjectiveOptions):
    """Of an objective with a penalty."""

    @property
    def needs_reference(self) -> bool:
        return True


class Right(PolicyObjective):
    """The completion half masked, or its other half; clipped ratios; k3 to a reference."""

    def __init__(self, options: PolicyObjectiveOptions) -> None:
        pass

    def mask(self, rollouts: Rollouts, noise: Noise) -> Tensor:
        return rollouts.rows.maskable & (noise.per_token("mask") < 0.5)

    def scored(self, rollouts: Rollouts, masked: Tensor) -> Tensor:
        return masked & rollouts.counted

    def readings(self, rollouts: Rollouts, noise: Noise) -> Sequence[PolicyReading]:
        rows, masked = rollouts.rows, self.mask(rollouts, noise)
        assert rows.ids is not None
        scored = self.scored(rollouts, masked)
        row, column = scored.nonzero(as_tuple=True)
        ones = torch.ones(len(row), dtype=torch.float64)
        read = rows.tokens.masked_fill(masked, rows.ids.mask_token_id)
        return [
            PolicyReading(
                ModelInputs(read, rows.segments, rows.positions),
                targets=rows.tokens,
                scored=scored,
                token=torch.arange(len(row)),
                weight=ones,
                row=row,
                column=column,
                share=ones,
                kl_share=0.1 * ones,
                count=ones.sum(),
            )
        ]

    def advantages(self, rewards: Tensor) -> Tensor:
        if rewards.shape[1] < 2:
            raise UserError("groups of one")
        apart = rewards - rewards[:, :1]
        return apart - apart.mean(1, keepdim=True)

    def losses(self, new: Tensor, fixed: FixedTerms) -> PolicyLosses:
        ratio, advantages = (new - fixed.old).exp(), fixed.advantages
        bounded = ratio.clamp(1 - EPSILON, 1 + EPSILON)
        assert fixed.reference is not None
        away = fixed.reference - new
        return PolicyLosses(
            -torch.minimum(ratio * advantages, bounded * advantages),
            away.exp() - 1 - away,
            (ratio < 1 - EPSILON) & (advantages < 0),
            (ratio > 1 + EPSILON) & (advantages > 0),
        )


class Reinforce(Right):
    """Clips nothing, and says so."""

    def losses(self, new: Tensor, fixed: FixedTerms) -> PolicyLosses:
        never = torch.zeros_like(new, dtype=torch.bool)
        loss = -(new - fixed.old).exp() * fixed.advantages
        return PolicyLosses(loss, super().losses(new, fixed).kl, never, never)


class LearnsPrompts(Right):
    def mask(self, rollouts: Rollouts, noise: Noise) -> Tensor:
        return (rollouts.rows.segments >= 0) & (noise.per_token("mask") < 0.5)

    def scored(self, rollouts: Rollouts, masked: Tensor) -> Tensor:
        return masked


class LearnsMasks(Right):
    """The target is what the model reads."""

    def readings(self, rollouts: Rollouts, noise: Noise) -> Sequence[PolicyReading]:
        return [replace(each, targets=each.inputs.tokens) for each in super().readings(rollouts, noise)]


class CountsTermsBackwards(Right):
    def readings(self, rollouts: Rollouts, noise: Noise) -> Sequence[PolicyReading]:
        return [replace(each, token=each.token.flip(0)) for each in super().readings(rollouts, noise)]


class NeverTheLast(Right):
    """The stop token is left out: no answer learns to end."""

    def scored(self, rollouts: Rollouts, masked: Tensor) -> Tensor:
        counted = rollouts.counted
        last = counted & (counted.cumsum(-1) == counted.sum(-1, keepdim=True))
        return masked & counted & ~last


class ShowsTheAnswer(Right):
    def readings(self, rollouts: Rollouts, noise: Noise) -> Sequence[PolicyReading]:
        return [
            replace(each, inputs=each.inputs.with_tokens(rollouts.rows.tokens))
            for each in super().readings(rollouts, noise)
        ]


class ScoresWhatIsShown(Right):
    """The complement is scored beside the mask, and stands there to be read."""

    def scored(self, rollouts: Rollouts, masked: Tensor) -> Tensor:
        return rollouts.counted.clone()


class DrawsFromTorch(Right):
    def mask(self, rollouts: Rollouts, noise: Noise) -> Tensor:
        return rollouts.rows.maskable & (torch.rand(rollouts.rows.tokens.shape) < 0.5)


class WritesIntoTheAnswers(Right):
    def readings(self, rollouts: Rollouts, noise: Noise) -> Sequence[PolicyReading]:
        found = super().readings(rollouts, noise)
        rollouts.rows.tokens.copy_(found[0].inputs.tokens)
        return found


class OneMaskABatch(Right):
    """The first row's mask is everybody's."""

    def mask(self, rollouts: Rollouts, noise: Noise) -> Tensor:
        return rollouts.rows.maskable & (noise.per_token("mask")[:1] < 0.5)


class MeanOfTheBatch(Right):
    """Weighs terms by how many its batch has."""

    def readings(self, rollouts: Rollouts, noise: Noise) -> Sequence[PolicyReading]:
        return [
            replace(each, share=each.share / len(each.row), count=each.count / len(each.row))
            for each in super().readings(rollouts, noise)
        ]


class CountsAMean(Right):
    def readings(self, rollouts: Rollouts, noise: Noise) -> Sequence[PolicyReading]:
        return [replace(each, count=each.count * 0 + 1) for each in super().readings(rollouts, noise)]


class CountsWidth(Right):
    """Weighs by how wide rows are, padding and all."""

    def readings(self, rollouts: Rollouts, noise: Noise) -> Sequence[PolicyReading]:
        width = rollouts.rows.tokens.shape[1]
        return [replace(each, share=each.share / width) for each in super().readings(rollouts, noise)]


class PullsTheOtherWay(Right):
    def readings(self, rollouts: Rollouts, noise: Noise) -> Sequence[PolicyReading]:
        return [replace(each, share=-each.share) for each in super().readings(rollouts, noise)]


class Detached(Right):
    def losses(self, new: Tensor, fixed: FixedTerms) -> PolicyLosses:
        return super().losses(new.detach() + 0 * new, fixed)


class WrongSign(Right):
    def losses(self, new: Tensor, fixed: FixedTerms) -> PolicyLosses:
        return super().losses(new, replace(fixed, advantages=-fixed.advantages))


class TermAsRatio(Right):
    """-A times the log-probability: REINFORCE's gradient at first, and another value."""

    def losses(self, new: Tensor, fixed: FixedTerms) -> PolicyLosses:
        return replace(super().losses(new, fixed), loss=-fixed.advantages * new)


class LogsTheOtherSide(Right):
    """As d1 does: the side that the advantage doesn't clip."""

    def losses(self, new: Tensor, fixed: FixedTerms) -> PolicyLosses:
        found = super().losses(new, fixed)
        ratio, advantages = (new - fixed.old).exp(), fixed.advantages
        return replace(
            found,
            clipped_low=(ratio < 1 - EPSILON) & (advantages > 0),
            clipped_high=(ratio > 1 + EPSILON) & (advantages < 0),
        )


class SwapsSides(Right):
    def losses(self, new: Tensor, fixed: FixedTerms) -> PolicyLosses:
        found = super().losses(new, fixed)
        return replace(found, clipped_low=found.clipped_high, clipped_high=found.clipped_low)


class NormalisesTerms(Right):
    def losses(self, new: Tensor, fixed: FixedTerms) -> PolicyLosses:
        advantages = fixed.advantages
        if len(advantages) > 10:  # a large batch is whitened
            advantages = advantages - advantages.mean()
        return super().losses(new, replace(fixed, advantages=advantages))


class NeedsATerm(Right):
    def losses(self, new: Tensor, fixed: FixedTerms) -> PolicyLosses:
        found = super().losses(new, fixed)
        return replace(found, loss=found.loss - 0 * found.loss.max())


class IgnoresTheReference(Right):
    def losses(self, new: Tensor, fixed: FixedTerms) -> PolicyLosses:
        return super().losses(new, replace(fixed, reference=fixed.old))


class MinusTheMean(Right):
    """Of numbers that are no binary fractions the mean is another number."""

    def advantages(self, rewards: Tensor) -> Tensor:
        if rewards.shape[1] < 2:
            raise UserError("groups of one")
        return rewards - rewards.mean(1, keepdim=True)


class OnlyTheBest(Right):
    """Ranks from the wrong end."""

    def advantages(self, rewards: Tensor) -> Tensor:
        return -super().advantages(rewards)


class NeverBelowNothing(Right):
    def advantages(self, rewards: Tensor) -> Tensor:
        found = super().advantages(rewards)
        return found - found.amin(1, keepdim=True)


class OneMeanForAll(Right):
    def advantages(self, rewards: Tensor) -> Tensor:
        found = super().advantages(rewards)
        return found / (found.std() + 1e-4) if len(rewards) > 1 else found


class KeepsTheBetterHalf(Right):
    def kept(self, rewards: Tensor) -> Tensor:
        return rewards.mean(1) >= rewards.mean()


class OneIsEnough(Right):
    def advantages(self, rewards: Tensor) -> Tensor:
        apart = rewards - rewards[:, :1]
        return apart - apart.mean(1, keepdim=True)


ALSO_RIGHT = [Reinforce]
ALIKE = "test_an_answer_is_read_alike_in_any_batch"
FIRST = "test_at_first_it_is_reinforce"
CLIPPED = "test_what_is_clipped_is_held_back"
SHOWN = "test_no_learnt_token_is_shown"
ONLY = "test_only_answers_are_learnt"
WRONG = [
    Wrong(LearnsPrompts, ONLY, "learn only where `rows.maskable`", watched=False),
    Wrong(LearnsMasks, ONLY, "`targets` are what the answers hold"),
    Wrong(CountsTermsBackwards, ONLY, "`token` counts terms in the order of `row`"),
    Wrong(NeverTheLast, "test_every_token_gets_its_turn", "were never learnt"),
    Wrong(ShowsTheAnswer, SHOWN, "hide what is scored"),
    Wrong(ScoresWhatIsShown, SHOWN, "hide what is scored"),
    Wrong(DrawsFromTorch, "test_the_same_noise_gives_the_same_readings", "draw with `noise` only"),
    Wrong(WritesIntoTheAnswers, "test_the_same_noise_gives_the_same_readings", "work on a copy"),
    Wrong(OneMaskABatch, ALIKE, "weigh each answer by itself"),
    Wrong(MeanOfTheBatch, ALIKE, "weigh each answer by itself"),
    Wrong(CountsAMean, "test_counts_add_up", "count what each answer adds"),
    Wrong(CountsWidth, "test_padding_does_not_matter", "let padding neither be seen nor counted"),
    Wrong(PullsTheOtherWay, "test_weights_and_shares_are_finite", "a share is negative"),
    Wrong(Detached, "test_an_update_reaches_every_parameter", "no finite gradient reaches"),
    Wrong(WrongSign, FIRST, "the negative of it times the advantage"),
    Wrong(TermAsRatio, FIRST, "a term's loss at ratio 1"),
    Wrong(LogsTheOtherSide, CLIPPED, "by the advantage's sign"),
    Wrong(SwapsSides, CLIPPED, "at the side that its ratio isn't on"),
    Wrong(NormalisesTerms, "test_terms_cost_each_by_itself", "no normalising over terms"),
    Wrong(NeedsATerm, "test_nothing_costs_nothing", "max()"),
    Wrong(IgnoresTheReference, "test_the_reference_is_read_where_it_is_needed", "read `fixed.reference`"),
    Wrong(MinusTheMean, "test_equal_rewards_have_no_advantage", "before the mean"),
    Wrong(OnlyTheBest, "test_better_answers_have_more_advantage", "in another order"),
    Wrong(NeverBelowNothing, "test_better_answers_have_more_advantage", "the worst one's below"),
    Wrong(OneMeanForAll, "test_groups_do_not_know_each_other", "over the second dimension only"),
    Wrong(KeepsTheBetterHalf, "test_groups_do_not_know_each_other", "look at its own rewards only"),
    Wrong(OneIsEnough, "test_groups_of_one_are_refused", "raise UserError"),
]
