"""The contract of a backbone: a family of checkpoints, and the model it gives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from opendllm.registries.errors import UserError
from opendllm.registries.sequences import AttentionPattern, ModelInputs
from opendllm.registries.trained_noise import TrainedNoise

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


@dataclass(frozen=True)
class DistributionLoss:
    """A loss that hangs on a position's whole distribution, not on its target's likelihood alone.

    Attributes:
        of: from the logits [n, V] float32 of a run of scored positions, and which these are, to a scalar.
    """

    of: Callable[[Tensor, slice], Tensor]


@dataclass(frozen=True)
class JointLoss:
    """A loss of all scored positions together, where it is no sum over them: a policy's, say.

    The module works all likelihoods out first, in as many parts as it likes, calls `of` once, and gives
    what that gives.

    Attributes:
        of: from the negative log-likelihoods [N] float32, nats, of all scored positions in row-major order
            to a scalar, which already holds weights and divisor.
        guidance_scale: above 0, there are 2N scored positions, the last N of them without their prompt; the
            logits are `without + (1 + guidance_scale) * (with - without)`, and the targets the first N.
    """

    of: Callable[[Tensor], Tensor]
    guidance_scale: float = 0.0


LikelihoodLoss: TypeAlias = "Callable[[Tensor, slice], Tensor]"
"""From the negative log-likelihoods [n] of a run of scored positions, and which these are, to a scalar."""
LossPart: TypeAlias = "LikelihoodLoss | DistributionLoss | JointLoss"
"""What a module takes the sum of, in runs of scored positions; of a `JointLoss` see there.

A module calls it as often as it likes, each time with the answers of a run of consecutive scored positions
and the slice of 0..N-1 that these are, N the number of the whole batch's scored positions, row by row: so
that the logits of all of them never exist together. The slices cover 0..N-1, each position once, in any
order. It gives a scalar that already holds the objective's weights and divisor, with a gradient; the module
adds them up and divides by nothing. Likelihoods are float32, nats.
"""


@dataclass(frozen=True)
class Vocabulary:
    """What a model built from scratch has to know of its tokenizer.

    Attributes:
        size: V, the number of its ids.
        mask_token_id: one of them.
        eos_token_id: another.
    """

    size: int
    mask_token_id: int
    eos_token_id: int


@dataclass(frozen=True)
class TokenPositions:
    """N positions of a batch of rows.

    Attributes:
        rows: [N] int64.
        columns: [N] int64.
    """

    rows: Tensor
    columns: Tensor


@dataclass(frozen=True)
class RefreshSpan:
    """The part of a batch whose keys and values are to be computed anew.

    Attributes:
        rows: [R] int64, which rows; None for all of them.
        first: [R] int64, each row's first column.
        last: [R] int64, each row's last column.
        width: the most columns that one of them has.
        seen: how many columns, the first ones, hold whatever these columns see; None for all columns.
        see_alike: whether each of them sees all of that, but for padding.
    """

    rows: Tensor | None
    first: Tensor
    last: Tensor
    width: int
    seen: int | None = None
    see_alike: bool = False


class CanvasReader(ABC):
    """Reads the same rows again and again, while their tokens change and their layout doesn't."""

    @abstractmethod
    def states(self, tokens: Tensor, at: TokenPositions, refresh: RefreshSpan | None = None) -> Tensor:
        """[N, D] aligned hidden states.

        Args:
            tokens: [B, L] int64, as they are now.
            at: the positions; where `refresh` is given, in its rows, and predicted from its columns.
            refresh: what has changed, where keys and values are kept; None to read everything.
        """

    @abstractmethod
    def select_rows(self, rows: Tensor) -> None:
        """Go on with these rows [R] int64 only."""

    def replace_rows(self, rows: Tensor, inputs: ModelInputs) -> bool:
        """Go on with other rows in place of some, in the same memory.

        Args:
            rows: [R] int64, the rows that make way.
            inputs: R others, as long as they.

        Returns:
            Whether it does; another reader is made if not.
        """
        return False

    def fix_memory(self) -> int | None:
        """Make all memory now, and let it lie where it is: CUDA graphs read and write it.

        Returns:
            How many bytes it is; None where the reader can't, and whole steps are not replayed.
        """
        return None


class WholeReader(CanvasReader):
    """Reads everything every time: what any backbone can do."""

    def __init__(self, lm: DiffusionLM, inputs: ModelInputs) -> None:
        self._lm = lm
        self._inputs = inputs

    def states(self, tokens: Tensor, at: TokenPositions, refresh: RefreshSpan | None = None) -> Tensor:
        """See `CanvasReader.states`."""
        return self._lm.hidden_states(self._inputs.with_tokens(tokens))[at.rows, at.columns]

    def tell_time(self, time: Tensor) -> None:
        """Read at this `ModelInputs.time` [B, L] from now on."""
        self._inputs = replace(self._inputs, time=time)

    def select_rows(self, rows: Tensor) -> None:
        """See `CanvasReader.select_rows`."""
        self._inputs = self._inputs.rows(rows)

    def replace_rows(self, rows: Tensor, inputs: ModelInputs) -> bool:
        """See `CanvasReader.replace_rows`."""
        self._inputs = replace(
            self._inputs,
            segments=self._inputs.segments.index_copy(0, rows, inputs.segments),
            positions=self._inputs.positions.index_copy(0, rows, inputs.positions),
        )
        return True


class DiffusionLM(ABC):
    """A language model whose logits at position i predict token i, whatever its checkpoint does.

    Attributes:
        module: the parameters. Its forward takes `negative_log_likelihood`'s arguments and a
            `LossPart`, and gives the sum of that over all scored positions, in as many parts as it
            likes: so an engine that wraps the module (DeepSpeed) sees the whole forward pass.
        mask_token_id: the id that stands for an unknown token.
        eos_token_id: the id that ends a document, or None.
        end_of_turn_token_id: the id that ends an answer of a chat model, or None.
        stop_token_ids: all ids at which a text ends, by any of the checkpoint's files; see `stops`.
        vocab_size: number of logits.
        ids_without_token: ids below it that its tokenizer has no token for: a padded vocabulary's rows,
            and holes. Never proposed; empty where no tokenizer is known.
        context_length: the most positions that it was made for.
        attention: the checkpoint's own pattern.
        fills_last_block: whether a block-causal checkpoint's texts are written up to the end of their last
            block, and then cut: the block is read as a whole, whatever length is asked for.
        logit_shift: whether the checkpoint's hidden state i-1 predicts token i. The logits given
            out here are aligned all the same.
        supports_kv_cache: whether its readers can keep keys and values.
        noise: what the checkpoint was trained to undo.
    """

    module: nn.Module
    mask_token_id: int
    eos_token_id: int | None
    end_of_turn_token_id: int | None = None
    stop_token_ids: tuple[int, ...] = ()
    vocab_size: int
    ids_without_token: tuple[int, ...] = ()
    context_length: int
    attention: AttentionPattern
    fills_last_block: bool = True
    logit_shift: bool
    supports_kv_cache: bool = False
    noise: TrainedNoise = TrainedNoise()

    @property
    def stops(self) -> tuple[int, ...]:
        """The ids at which a text ends: EOS, then the other `stop_token_ids`."""
        own = () if self.eos_token_id is None else (self.eos_token_id,)
        return tuple(dict.fromkeys((*own, *self.stop_token_ids)))

    @property
    def network(self) -> nn.Module:
        """The part of `module` that the family's checkpoints hold; adapters go into it."""
        return self.module

    def balance_experts(self, weight: float) -> None:
        """From now on each forward pass of `module` with gradients adds a load-balancing loss.

        Args:
            weight: of the mean over the pass's rows.

        Raises:
            UserError: the network has no experts that a loss could balance.
        """
        raise UserError(
            "train.load_balancing: this backbone has no mixture layers that a softmax routes: leave it out"
        )

    @abstractmethod
    def hidden_states(self, inputs: ModelInputs) -> Tensor:
        """[B, L, D] aligned hidden states: `project` of position i predicts token i."""

    def predictors(self, segments: Tensor) -> Tensor:
        """[B, L] int64: the column whose own hidden state predicts the token at each position.

        Args:
            segments: [B, L] document numbers.
        """
        import torch

        return torch.arange(segments.shape[1], device=segments.device).expand_as(segments)

    def reader(self, inputs: ModelInputs, use_kv_cache: bool = False, compiled: bool = False) -> CanvasReader:
        """Something that reads rows of this layout while they are written.

        Args:
            inputs: the rows; one document each.
            use_kv_cache: whether it will be told what to refresh; only where the model `supports_kv_cache`.
            compiled: whether to compile the network, for shapes that stay the same.

        Raises:
            UserError: the backbone can't.
        """
        if use_kv_cache or compiled:
            lacking, option = ("key-value cache", "cache") if use_kv_cache else ("compiled form", "compile")
            raise UserError(f"{type(self).__name__} has no {lacking}: leave {option} out")
        return WholeReader(self, inputs)

    @abstractmethod
    def project(self, hidden: Tensor) -> Tensor:
        """Logits [..., V] of hidden states [..., D]."""

    @abstractmethod
    def negative_log_likelihood(self, inputs: ModelInputs, targets: Tensor, scored: Tensor) -> Tensor:
        """[N] float32, nats, of `targets` [B, L] where `scored` [B, L] is true, in row-major order."""

    @abstractmethod
    def save(self, folder: Path, weights: Mapping[str, Tensor]) -> None:
        """Write config.json and safetensors in the family's published layout.

        Args:
            folder: an existing folder.
            weights: a full state dict of `module`, on any device.
        """


class Backbone(ABC):
    """Builds or loads models of one family."""

    @abstractmethod
    def build(self, vocabulary: Vocabulary) -> DiffusionLM:
        """A model with random weights, drawn from torch's global generator."""

    @abstractmethod
    def load(
        self,
        folder: Path,
        config: Mapping[str, Any],
        device: torch.device,
        dtype: torch.dtype | None,
        min_vocab_size: int = 0,
    ) -> DiffusionLM:
        """The checkpoint in `folder`.

        Args:
            folder: with its safetensors.
            config: what its config.json holds, with a `mask_token_id`: all that `save` wrote. A section
                `open_dllm` in it says what the family's format has no word for (`backbone`, the plugin's
                name, by which it is found; `attention`, `block_length` and others of its options, which hold
                where the options don't say otherwise; the noise). A published checkpoint has none.
            device: where the weights go.
            dtype: of the weights; None keeps the file's.
            min_vocab_size: a smaller vocabulary is grown to it, new rows at the mean of the old.

        Raises:
            UserError: a file is missing or damaged, a key is missing or unknown, a shape differs.
        """
