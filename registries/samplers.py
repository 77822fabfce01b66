"""The contract of a sampler: one decision a step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class Proposals(Protocol):
    """The model's proposed token at each position asked for, and how sure it is.

    Everything is [B, L] on the canvas's layout; positions that weren't asked for hold -inf.
    Each score is computed when it is first asked for.
    """

    @property
    def tokens(self) -> Tensor:
        """[B, L] int64: drawn from the filtered distribution, or its mode at temperature 0."""

    def probability(self) -> Tensor:
        """Probability of the proposed token after temperature and filters."""

    def model_probability(self) -> Tensor:
        """Probability of the proposed token in the model's own distribution."""

    def margin(self) -> Tensor:
        """Largest minus second largest probability after temperature and filters."""

    def negative_entropy(self) -> Tensor:
        """Sum of p log p, in nats, after temperature and filters."""


@dataclass(frozen=True)
class Step:
    """What a sampler sees: the rows that are still being written, each at its own step.

    Attributes:
        masked: [B, L] bool, masks of the active block.
        editable: [B, L] bool, all positions of the active block that the prompt doesn't fix.
        proposals: the model's answers at the positions that the sampler asked for.
        index: [B] int64, this step's number within its block, from 0.
        steps: [B] int64, the number of steps in the block.
        target: [B] int64, how many masks should remain after this step, from `remaining_masks`;
            0 at a block's last step.
        alg_temp: temperature of the order in which positions are committed; 0 takes the best.
        draws: uniform numbers for the sampler's own use.
    """

    masked: Tensor
    editable: Tensor
    proposals: Proposals
    index: Tensor
    steps: Tensor
    target: Tensor
    alg_temp: float
    draws: Draws


class Draws(Protocol):
    """Uniform numbers that depend on a row's seed, its step and the position only."""

    def uniform(self, stream: str) -> Tensor:
        """[B, L] float64 in [0, 1); `stream` names what they are for."""


@dataclass(frozen=True)
class Selection:
    """A sampler's decision.

    Attributes:
        commit: [B, L] bool, positions that take their proposal.
        remask: [B, L] bool, committed positions that become masks again, or None.
    """

    commit: Tensor
    remask: Tensor | None = None


class Sampler(ABC):
    """Decides which positions are committed and which are masked again."""

    proposes: Literal["masked", "editable"] = "masked"
    """The positions at which it needs proposals; fewer are faster."""
    revises: bool = False
    """Whether it may mask a committed position again; if not, steps that commit nothing are skipped."""

    def remaining_masks(self, masks: int, steps: int) -> list[int] | None:
        """How many of a block's `masks` are left after each of its `steps` steps; the last is 0.

        None (the default) where that depends on chance or on the model's answers.
        """
        return None

    @abstractmethod
    def select(self, step: Step) -> Selection:
        """Decide one step. Whatever is still masked at a block's last step is committed by the decoder."""
