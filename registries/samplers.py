"""The contract of a sampler: one decision a step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from torch import Tensor

Confidence = Literal["probability", "tempered_probability", "model_probability", "margin", "negative_entropy"]
"""How sure the model is of a proposal; larger is surer.

`probability`, `margin` (largest minus second largest probability) and `negative_entropy` (sum of
p log p, nats) are read after temperature and filters; `tempered_probability` after temperature, before
filters; `model_probability` is the proposed token's in
the model's own distribution.
"""


@dataclass(frozen=True)
class SpecialTokens:
    """Ids that a sampler may treat apart; None where the checkpoint has no such token."""

    mask: int
    eos: int | None = None
    end_of_turn: int | None = None
    stops: tuple[int, ...] = ()
    """All ids at which a text ends, EOS and end of turn among them."""


class Draws(Protocol):
    """Uniform numbers that depend on a row's seed, its step and the position only."""

    def uniform(self, stream: str) -> Tensor:
        """[B, L] float64 in [0, 1); `stream` names what they are for."""


@dataclass(frozen=True)
class Step:
    """What a sampler sees: the B rows that are still being written, each at its own step.

    Attributes:
        masked: [B, L] bool, masks of the active block.
        editable: [B, L] bool, all positions of the active block that the prompt doesn't fix.
        tokens: [B, L] int64, the proposed token at each position that was asked for: drawn from the
            filtered distribution, or its mode at temperature 0; the mask elsewhere, and everywhere for a
            sampler that decides first.
        confidence: [B, L] float32, the sampler's `confidence` in it; -inf elsewhere.
        committed_confidence: [B, L] float32, each committed position's confidence when it was committed.
        index: [B] int64, this step's number within its block, from 0.
        steps: [B] int64, the number of steps in the block.
        target: [B] int64, how many masks should remain after this step, from `remaining_masks`;
            0 at a block's last step, whether the sampler plans or not.
        width: [B] int64, positions of the active block, those that the prompt fixes and that are beyond the
            canvas counted.
        alg_temp: temperature of the order in which positions are committed; 0 takes the best.
        special: ids of the mask, EOS and end of turn.
        draws: uniform numbers for the sampler's own use.
    """

    masked: Tensor
    editable: Tensor
    tokens: Tensor
    confidence: Tensor
    committed_confidence: Tensor
    index: Tensor
    steps: Tensor
    target: Tensor
    width: Tensor
    alg_temp: float
    special: SpecialTokens
    draws: Draws


@dataclass(frozen=True)
class Selection:
    """A sampler's decision. The decoder refuses tensors of another shape or dtype.

    Attributes:
        commit: [B, L] bool, positions that take their proposal.
        remask: [B, L] bool, committed positions that become masks again, or None; see `Sampler.revises`.
        expand: [B, L] bool, masks that become two masks, or None; see `Sampler.growth`.
        delete: [B, L] bool, masks that are taken out of the row, or None; see `Sampler.edits_length`.
    """

    commit: Tensor
    remask: Tensor | None = None
    expand: Tensor | None = None
    delete: Tensor | None = None


class Sampler(ABC):
    """Decides which positions are committed and which are masked again."""

    proposes: Literal["masked", "editable"] = "masked"
    """The positions at which it needs proposals; fewer are faster."""
    confidence: Confidence | None = None
    """What `Step.confidence` holds; None where it isn't read."""
    plans: bool = False
    """Whether it knows beforehand how many masks are left after each step: `remaining_masks` then says it,
    and the decoder neither counts masks nor takes steps that change nothing."""
    revises: bool = False
    """Whether it may mask a committed position again; if not, planned steps that commit nothing are
    skipped, and a block without masks is done."""
    decides_first: bool = False
    """Whether it chooses before the model is asked: `select` then sees no proposals and no confidences, the
    model is asked at the chosen positions only, and not at all at steps that commit nothing."""
    growth: int = 0
    """By how many positions a row may grow: the most `expand` decisions that it can take."""
    edits_length: bool = False
    """Whether it expands or deletes: such rows are one block, and are read without a cache."""

    def remaining_masks(self, masks: int, steps: int) -> list[int]:
        """How many of a block's `masks` are left after each of its `steps` steps; the last is 0.

        A sampler that `plans` gives this, and no other is asked.
        """
        raise NotImplementedError(f"{type(self).__name__} has plans = True, and no remaining_masks")

    def suppressed_tokens(
        self, special: SpecialTokens, room: Tensor, last: Tensor
    ) -> Mapping[int, Tensor | bool]:
        """Token ids that are not to be proposed, and not to be counted in confidences.

        Args:
            special: ids of the mask, EOS and end of turn.
            room: [B] int64, by how many positions each row may still grow.
            last: [B] bool, rows at the last step of their block.

        Returns:
            By id: [B] bool, the rows in which it is suppressed; or True for all of them.
        """
        return {}

    @abstractmethod
    def select(self, step: Step) -> Selection:
        """Decide one step. Whatever is still masked at a block's last step is committed by the decoder."""
