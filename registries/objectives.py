"""The contract of a training objective."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from opendllm.registries.backbones import DistributionLoss, LikelihoodLoss
from opendllm.registries.noise_schedules import NoiseSchedule
from opendllm.registries.sequences import ModelInputs, TokenIds, TokenRows

if TYPE_CHECKING:
    from torch import Tensor


class Noise(Protocol):
    """Uniform numbers in [0, 1), float64, that are a pure function of (seed, sample index).

    `stream` names what a number is for, so that two uses never share one.
    """

    def per_row(self, stream: str) -> Tensor:
        """[B, 1]: one number a row."""

    def per_row_stratified(self, stream: str) -> Tensor:
        """[B, 1]: one number a row, spread evenly over each global batch (MDLM's antithetic times).

        Of a global batch of G rows, row n has frac(u + n / G), u one number of the batch: each is uniform by
        itself, and their mean has less variance. Rows of one batch are therefore not independent of each
        other, whatever process or micro-batch they are in; use it for times, and nothing else.
        """

    def per_document(self, stream: str) -> Tensor:
        """[B, L]: one number a document, repeated over its tokens."""

    def per_token(self, stream: str) -> Tensor:
        """[B, L]: one number a token."""


@dataclass(frozen=True)
class Masking:
    """Which tokens are hidden, and how likely that was.

    Attributes:
        masked: [B, L] bool.
        mask_probability: [B, L] float64, the chance with which each maskable token was masked.
        time: [B, L] float64, the schedule's time at which that is the mask probability.
        rows: the rows it belongs to; an objective may have shortened them.
        noisy: [B, L] int64, what stands in the row once noise has replaced the tokens that are `masked`,
            by whatever tokens; None where the mask token stands in their place.
    """

    masked: Tensor
    mask_probability: Tensor
    time: Tensor
    rows: TokenRows
    noisy: Tensor | None = None


@dataclass(frozen=True)
class ScoredPositions:
    """n scored positions, in row-major order.

    Attributes:
        clean: [n] int64, the clean tokens.
        noisy: [n] int64, what the model reads there.
        time: [n] float64, the schedule's time.
        weight: [n] float, see `Corruption`.
        ids: the model's.
    """

    clean: Tensor
    noisy: Tensor
    time: Tensor
    weight: Tensor
    ids: TokenIds

    def part(self, chosen: slice) -> ScoredPositions:
        """Some of them."""
        return ScoredPositions(
            self.clean[chosen], self.noisy[chosen], self.time[chosen], self.weight[chosen], self.ids
        )


@dataclass(frozen=True)
class Corruption:
    """A corrupted batch, ready for the model. B' and L' may differ from the clean rows' B and L.

    A row that is read several times has its copies one after the other, or halves of its length side by side.

    Attributes:
        inputs: what the model reads, [B, L'].
        targets: [B, L'] int64, the clean token at each position.
        scored: [B, L'] bool, the N positions whose negative log-likelihood the loss needs.
        weight: [N] float, one factor a scored position, in row-major order.
        count: scalar float64, what the loss sum is divided by, once summed over the global batch.
        time: [N] float64, the schedule's time at each scored position; only for `position_losses`.
        ids: the model's; only for `position_losses`.
    """

    inputs: ModelInputs
    targets: Tensor
    scored: Tensor
    weight: Tensor
    count: Tensor
    time: Tensor | None = None
    ids: TokenIds | None = None

    @classmethod
    def of_masked(
        cls,
        masking: Masking,
        mask_token_id: int,
        *,
        weight: Tensor,
        count: Tensor,
        scored: Tensor | None = None,
    ) -> Corruption:
        """Masked tokens give way to the mask token; the model predicts what they were.

        Args:
            masking: which tokens are masked.
            mask_token_id: what stands in their place.
            weight: [B, L], the factor of each position, of which only scored ones are read.
            count: scalar, of any dtype.
            scored: [B, L] bool, the masked tokens that are scored; None for all of them.
        """
        rows = masking.rows
        scored = masking.masked if scored is None else scored
        corrupted = rows.tokens.masked_fill(masking.masked, mask_token_id)
        return cls(
            ModelInputs(corrupted, rows.segments, rows.positions),
            targets=rows.tokens,
            scored=scored,
            weight=weight[scored],
            count=count.double(),
        )

    @classmethod
    def of_replaced(cls, masking: Masking, *, count: Tensor, model_time: Tensor | None = None) -> Corruption:
        """Tokens give way to others; every maskable token is scored with weight 1, replaced or not.

        Args:
            masking: with its `noisy` tokens.
            count: scalar, of any dtype.
            model_time: [B, L], see `ModelInputs.time`.
        """
        rows = masking.rows
        noisy = rows.tokens if masking.noisy is None else masking.noisy
        time = masking.time[rows.maskable]
        return cls(
            ModelInputs(noisy, rows.segments, rows.positions, time=model_time),
            targets=rows.tokens,
            scored=rows.maskable,
            weight=time * 0 + 1,
            count=count.double(),
            time=time,
            ids=rows.ids,
        )

    def part(self, chosen: slice) -> Corruption:
        """The same with the weights of some scored positions only."""
        return replace(self, weight=self.weight[chosen])

    def positions(self) -> ScoredPositions:
        """All scored positions, of a corruption that has their `time` and `ids`."""
        assert self.time is not None
        assert self.ids is not None
        clean, noisy = self.targets[self.scored], self.inputs.tokens[self.scored]
        return ScoredPositions(clean, noisy, self.time, self.weight, self.ids)


class Objective(ABC):
    """Corrupts clean tokens and turns the model's answers into a loss. A pure function of its inputs.

    The loss is a sum over scored positions: of `loss_sum`, from their targets' likelihoods alone, or, where
    `reads_distributions`, of `position_losses`.
    """

    reads_distributions: bool = False
    """Whether its loss hangs on each scored position's whole distribution."""
    averages_answers: bool = False
    """Whether its loss holds a mean over positions that only the model's answers tell; with
    `reads_distributions` only. A trainer reads each batch once more, to count them beforehand."""

    @abstractmethod
    def mask(self, rows: TokenRows, noise: Noise, schedule: NoiseSchedule) -> Masking:
        """Draw which tokens are hidden, or replaced and by what: `rows.ids` says what there is to draw."""

    @abstractmethod
    def corrupt(self, masking: Masking, schedule: NoiseSchedule, mask_token_id: int) -> Corruption:
        """Hide them, and weigh what is to be predicted. Draws nothing."""

    def position_losses(self, logits: Tensor, positions: ScoredPositions, schedule: NoiseSchedule) -> Tensor:
        """[n], weighed: each position's part of the sum that, divided by the global count, is the loss.

        Only asked for where `reads_distributions`, and then a few positions at a time.

        Args:
            logits: [n, V] float.
            positions: these n.
            schedule: the one that they were corrupted with.
        """
        raise NotImplementedError(f"{type(self).__name__} reads no distributions")

    def answer_losses(self, logits: Tensor, positions: ScoredPositions) -> tuple[Tensor, Tensor]:
        """([n], [n] bool): a second loss, and at which positions; its mean over these is added to the loss.

        Only asked for where `averages_answers`. The mean is over the global batch, too.

        Args:
            logits: [n, V] float.
            positions: these n.
        """
        raise NotImplementedError(f"{type(self).__name__} averages no answers")

    def loss_sum(self, negative_log_likelihood: Tensor, corruption: Corruption) -> Tensor:
        """The sum that, divided by the global count, is the loss.

        One term a scored position, which hangs on nothing but that position's likelihood and weight:
        the trainer takes the sum in parts, each with `Corruption.part`.

        Args:
            negative_log_likelihood: [N] float32, of the scored positions in row-major order.
            corruption: what `corrupt` gave.
        """
        return (corruption.weight * negative_log_likelihood).sum()

    def loss_part(
        self, corruption: Corruption, schedule: NoiseSchedule, count: float = 1.0, answers: float = 1.0
    ) -> LikelihoodLoss | DistributionLoss:
        """What a model's module takes the sum of, over the corruption's scored positions.

        Args:
            corruption: what `corrupt` gave.
            schedule: the one that it was corrupted with.
            count: what the sum is divided by.
            answers: what the sum of `answer_losses` is divided by, see `answer_count`.
        """
        if not self.reads_distributions:
            return lambda nll, chosen: self.loss_sum(nll, corruption.part(chosen)) / count
        positions = corruption.positions()

        def of(logits: Tensor, chosen: slice) -> Tensor:
            here = positions.part(chosen)
            loss = self.position_losses(logits, here, schedule).sum() / count
            if not self.averages_answers:
                return loss
            losses, counted = self.answer_losses(logits, here)
            return loss + losses.where(counted, 0).sum() / answers

        return DistributionLoss(of)

    def answer_count(self, corruption: Corruption) -> DistributionLoss:
        """How many positions `answer_losses` counts, as something that a module takes the sum of."""
        positions = corruption.positions()
        return DistributionLoss(
            lambda logits, chosen: self.answer_losses(logits, positions.part(chosen))[1].sum()
        )
