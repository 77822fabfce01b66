"""The contract of a sampler: one decision a step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from opendllm.registries.noise_schedules import NoiseSchedule

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
    """Ids that a sampler may treat apart; None where the checkpoint has no such token.

    Attributes:
        mask: stands for an unknown token.
        eos: ends a document.
        end_of_turn: ends an answer of a chat model.
        stops: all ids at which a text ends, EOS and end of turn among them.
    """

    mask: int
    eos: int | None = None
    end_of_turn: int | None = None
    stops: tuple[int, ...] = ()


class Draws(Protocol):
    """Uniform numbers that depend on a row's seed, its step and the position only."""

    def uniform(self, stream: str) -> Tensor:
        """[B, L] float64 in [0, 1); `stream` names what they are for."""


@dataclass(frozen=True)
class PositionChunk:
    """n of the positions that a sampler asked for, with the model's distribution at each.

    Attributes:
        rows: [n] int64, of the step's rows.
        columns: [n] int64.
        tokens: [n] int64, what stands there now.
        logits: [n, V] float32, aligned, neither tempered nor filtered; may be overwritten. Suppressed tokens
            have -inf. With guidance, those of the whole canvas.
        unconditional: [n, V] float32, without the prompt; None without guidance.
        uniforms: [n] float64, one addressed uniform number a position, to draw a token with.
    """

    rows: Tensor
    columns: Tensor
    tokens: Tensor
    logits: Tensor
    unconditional: Tensor | None
    uniforms: Tensor


class Distributions(Protocol):
    """The model's distributions at the positions that a sampler asked for, never all of them at once."""

    @property
    def guidance_scale(self) -> float:
        """The decoder's; 0 where there is no guidance."""

    def weights(self, logits: Tensor) -> Tensor:
        """[n, V] float32, proportional to the distribution of `logits` [n, V] after temperature, top-p and
        top-k; one-hot at temperature 0. The logits may be overwritten."""

    def read(self, function: Callable[[PositionChunk], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """Call `function` for every position once, in chunks.

        Args:
            function: gives tensors [n], always as many.

        Returns:
            As many tensors [B, L], 0 at positions that weren't asked for.
        """


@dataclass(frozen=True)
class Step:
    """What a sampler sees: the B rows that are still being written, each at its own step.

    Attributes:
        canvas: [B, L] int64, the tokens as they stand, prompts too; noise where nothing is written yet.
        masked: [B, L] bool, masks of the active block.
        editable: [B, L] bool, all positions of the active block that the prompt doesn't fix.
        tokens: [B, L] int64, the proposed token at each position that was asked for: drawn from the
            filtered distribution, or its mode at temperature 0; the mask elsewhere, and everywhere for a
            sampler that decides first or reads distributions.
        confidence: [B, L] float32, the sampler's `confidence` in it; -inf elsewhere.
        committed_confidence: [B, L] float32, each committed position's confidence when it was committed.
        memory: [B, L] int64, the `Selection.memory` of the step before; -1 at a block's first step.
        index: [B] int64, this step's number within its block, from 0.
        steps: [B] int64, the number of steps in the block.
        target: [B] int64, how many masks should remain after this step, from `remaining_masks`;
            0 at a block's last step, whether the sampler plans or not.
        block: [B, L] int64, the number of the block that each position to be written is in, from 0; -1
            elsewhere. For a sampler that `spans_blocks` the active one has several.
        width: [B] int64, positions of the active block, those that the prompt fixes and that are beyond the
            canvas counted.
        room: [B] int64, how many tokens each row has still room for.
        alg_temp: temperature of the order in which positions are committed; 0 takes the best.
        special: ids of the mask, EOS and end of turn.
        vocab_size: V.
        draws: uniform numbers for the sampler's own use.
        noise_schedule: the one that the model was trained with; None where it is one of masks that nobody
            wrote down.
        distributions: of the model at the positions that were asked for, if the sampler
            `needs_distributions`.
    """

    canvas: Tensor
    masked: Tensor
    editable: Tensor
    tokens: Tensor
    confidence: Tensor
    committed_confidence: Tensor
    memory: Tensor
    index: Tensor
    steps: Tensor
    target: Tensor
    block: Tensor
    width: Tensor
    room: Tensor
    alg_temp: float
    special: SpecialTokens
    vocab_size: int
    draws: Draws
    noise_schedule: NoiseSchedule | None = None
    distributions: Distributions | None = None


@dataclass(frozen=True)
class Overwrite:
    """Tokens that are written down as they are, whatever stood there.

    Attributes:
        where: [B, L] bool; only editable positions of the active block are overwritten.
        tokens: [B, L] int64, read where `where` is true. The mask may be among them.
    """

    where: Tensor
    tokens: Tensor


@dataclass(frozen=True)
class Selection:
    """A sampler's decision. The decoder refuses tensors of another shape or dtype.

    What isn't given doesn't happen. A position is overwritten after it was committed or masked again, and
    insertions stand right of a position even if that one is deleted.

    Attributes:
        commit: [B, L] bool, masks that take their proposal.
        remask: [B, L] bool, committed positions that become masks again; see `Sampler.revises`.
        overwrite: tokens to write down; see `Sampler.revises`.
        insert: [B, L] int64, the token that is put in right of each position, prompts included; -1 for
            none. Those that a row has no `room` for are left out, the rightmost first; see `Sampler.growth`.
        delete: [B, L] bool, editable positions that are taken out; see `Sampler.edits_length`.
        finished: [B] bool, rows whose block is done; see `Sampler.finishes`.
        memory: [B, L] int64, what the next step of the block finds in `Step.memory`.
    """

    commit: Tensor | None = None
    remask: Tensor | None = None
    overwrite: Overwrite | None = None
    insert: Tensor | None = None
    delete: Tensor | None = None
    finished: Tensor | None = None
    memory: Tensor | None = None


class Sampler(ABC):
    """Decides what is committed, masked again, overwritten, put in or taken out, and what is done."""

    proposes: Literal["masked", "editable", "asked"] = "masked"
    """The positions at which it needs proposals or distributions; fewer are faster. Those that are asked for
    are what `asks` says."""
    confidence: Confidence | None = None
    """What `Step.confidence` holds; None where it isn't read."""
    cuts_top_k_first: bool = False
    """Whether top-p is of what top-k keeps; by default of the whole distribution."""
    needs_distributions: bool = False
    """Whether one proposal and one number a position aren't enough: it then reads `Step.distributions`, and
    draws its tokens itself."""
    plans: bool = False
    """Whether it knows beforehand how many masks are left after each step: `remaining_masks` then says it,
    and the decoder neither counts masks nor takes steps that change nothing."""
    revises: bool = False
    """Whether it may change a position that is no mask; if not, planned steps that commit nothing are
    skipped, and a block without masks is done."""
    finishes: bool = False
    """Whether it says itself when a block is done (`Selection.finished`), before the last step."""
    decides_first: bool = False
    """Whether it chooses before the model is asked: `select` then sees no proposals and no confidences, the
    model is asked at the chosen positions only, and not at all at steps that commit nothing."""
    spans_blocks: bool = False
    """Whether it writes in several blocks at a time: the active block is then all that is written, and
    `Step.block` says how `block_length` divides it."""
    follows_model: bool = True
    """Whether, at temperature 1, a position that is written alone follows the model's distribution; not so
    where it is greedy or revises its own draws."""
    growth: int = 0
    """By how many positions a row may grow: the most insertions that it can take."""
    edits_length: bool = False
    """Whether it inserts or deletes: such rows are one block, and are read without a cache."""

    def block_steps(self, size: int, steps: int | None) -> int:
        """The most steps that a block of `size` positions takes, at least 1.

        Args:
            size: of the block.
            steps: its share of the decoder's `steps`; None where they weren't given.
        """
        return size if steps is None else steps

    def times(self, index: Tensor, steps: Tensor) -> Tensor | None:
        """[B] float64: the noise schedule's time before each row's step; None where steps have none.

        A model that was told the time in training is told it, and no other asks.

        Args:
            index: [B] int64, see `Step`.
            steps: [B] int64, see `Step`.
        """
        return None

    def remaining_masks(self, masks: int, steps: int) -> list[int]:
        """How many of a block's `masks` are left after each of its `steps` steps; the last is 0.

        A sampler that `plans` gives this, and no other is asked.
        """
        raise NotImplementedError(f"{type(self).__name__} has plans = True, and no remaining_masks")

    def asks(self, step: Step) -> Tensor:
        """[B, L] bool: of the editable positions, those at which it needs proposals, before there are any.

        A sampler that proposes what is "asked" gives this, and no other is asked.
        """
        raise NotImplementedError(f"{type(self).__name__} has proposes = 'asked', and no asks")

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
        """Decide one step: a function of what it is given.

        Steps may be replayed without it (`compile`), so nothing that it keeps elsewhere is seen again;
        what the next step wants to know is `Selection.memory`.

        What is still masked at a block's last step is committed by the decoder; a sampler that reads
        distributions leaves no mask then.
        """
