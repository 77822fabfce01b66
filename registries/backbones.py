"""The contract of a backbone: a family of checkpoints, and the model it gives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opendllm.registries.sequences import AttentionPattern, ModelInputs

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


@dataclass(frozen=True)
class Vocabulary:
    """What a model built from scratch has to know of its tokenizer."""

    size: int
    mask_token_id: int
    eos_token_id: int


class DiffusionLM(ABC):
    """A language model whose logits at position i predict token i, whatever its checkpoint does.

    Attributes:
        module: the parameters; its forward is `negative_log_likelihood`, so that an engine that
            wraps the module (DeepSpeed) sees every forward pass.
        mask_token_id: the id that stands for an unknown token.
        eos_token_id: the id that ends a document, or None.
        vocab_size: number of logits.
        context_length: the most positions that it was made for.
        attention: the checkpoint's own pattern.
        logit_shift: whether the checkpoint's hidden state i-1 predicts token i. The logits given
            out here are aligned all the same.
    """

    module: nn.Module
    mask_token_id: int
    eos_token_id: int | None
    vocab_size: int
    context_length: int
    attention: AttentionPattern
    logit_shift: bool

    @property
    def network(self) -> nn.Module:
        """The part of `module` that the family's checkpoints hold; adapters go into it."""
        return self.module

    @abstractmethod
    def hidden_states(self, inputs: ModelInputs) -> Tensor:
        """[B, L, D] aligned hidden states: `project` of position i predicts token i."""

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
        least_vocab_size: int = 0,
    ) -> DiffusionLM:
        """The checkpoint in `folder`.

        Args:
            folder: with its safetensors.
            config: what its config.json holds, with a `mask_token_id`.
            device: where the weights go.
            dtype: of the weights; None keeps the file's.
            least_vocab_size: a smaller vocabulary is grown to it, new rows at the mean of the old.

        Raises:
            UserError: a file is missing or damaged, a key is missing or unknown, a shape differs.
        """
