"""The contract of a training objective."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from opendllm.registries.noise_schedules import NoiseSchedule
from opendllm.registries.sequences import ModelInputs, TokenRows

if TYPE_CHECKING:
    from torch import Tensor


class Noise(Protocol):
    """Uniform numbers in [0, 1), float64, that are a pure function of (seed, sample index).

    `stream` names what a number is for, so that two uses never share one.
    """

    def per_row(self, stream: str) -> Tensor:
        """[B, 1]: one number a row."""

    def per_row_stratified(self, stream: str) -> Tensor:
        """[B, 1]: one number a row, spread evenly over each global batch (MDLM's antithetic times)."""

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
    """

    masked: Tensor
    mask_probability: Tensor
    time: Tensor
    rows: TokenRows


@dataclass(frozen=True)
class Corruption:
    """A corrupted batch, ready for the model. L' may differ from the clean rows' L.

    Attributes:
        inputs: what the model reads, [B, L'].
        targets: [B, L'] int64, the clean token at each position.
        scored: [B, L'] bool, the N positions whose negative log-likelihood the loss needs.
        weight: [N] float, one factor a scored position, in row-major order.
        count: scalar float64, what the loss sum is divided by, once summed over the global batch.
    """

    inputs: ModelInputs
    targets: Tensor
    scored: Tensor
    weight: Tensor
    count: Tensor

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

    def part(self, chosen: slice) -> Corruption:
        """The same with the weights of some scored positions only."""
        return replace(self, weight=self.weight[chosen])


class Objective(ABC):
    """Corrupts clean tokens and turns the model's answers into a loss. A pure function of its inputs."""

    @abstractmethod
    def mask(self, rows: TokenRows, noise: Noise, schedule: NoiseSchedule) -> Masking:
        """Draw which tokens are hidden."""

    @abstractmethod
    def corrupt(self, masking: Masking, schedule: NoiseSchedule, mask_token_id: int) -> Corruption:
        """Hide them, and weigh what is to be predicted. Draws nothing."""

    def loss_sum(self, negative_log_likelihood: Tensor, corruption: Corruption) -> Tensor:
        """The sum that, divided by the global count, is the loss.

        One term a scored position, which hangs on nothing but that position's likelihood and weight:
        the trainer takes the sum in parts, each with `Corruption.part`.

        Args:
            negative_log_likelihood: [N] float32, of the scored positions in row-major order.
            corruption: what `corrupt` gave.
        """
        return (corruption.weight * negative_log_likelihood).sum()
