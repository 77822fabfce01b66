"""The sizes of a decoder-only transformer, and what follows from them without building it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class Sizes(Protocol):
    """What planning has to know of a model."""

    @property
    def parameters(self) -> int:
        """Of the whole model."""

    @property
    def embedding_parameters(self) -> int:
        """Of the embedding and, where it has its own, the LM head."""

    def training_flops(self, tokens: int, length: int, scored_share: float = 1.0) -> float:
        """Floating-point operations of forward and backward passes; see `Architecture.training_flops`."""


@dataclass(frozen=True)
class ExpertSizes:
    """Of the layers that have a mixture of experts in the feed-forward's place.

    Attributes:
        layers: how many such layers.
        experts: in each of them.
        active: of them, that a token is sent to.
        intermediate_size: of an expert.
        shared: experts beside them that every token is sent to.
    """

    layers: int
    experts: int
    active: int
    intermediate_size: int
    shared: int = 0


@dataclass(frozen=True)
class Architecture:
    """What a config.json says about sizes.

    Attributes:
        vocab_size: rows of the embedding.
        hidden_size: width D.
        intermediate_size: width of the gated feed-forward layer.
        layers: number of transformer blocks.
        heads: query heads.
        key_value_heads: key and value heads.
        head_size: width of a head.
        tied: whether the LM head shares the embedding.
        attention_bias: whether query, key and value projections have biases.
        query_key_norm: whether queries and keys are normalised per head (Qwen3).
        experts: of the layers that are mixtures; None where there are none.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    key_value_heads: int
    head_size: int
    tied: bool
    attention_bias: bool = False
    query_key_norm: bool = False
    experts: ExpertSizes | None = None

    @property
    def embedding_parameters(self) -> int:
        """Of the embedding and, where it has its own, the LM head."""
        return self.vocab_size * self.hidden_size * (1 if self.tied else 2)

    @property
    def parameters(self) -> int:
        """Of the whole model."""
        return self._parameters(None if self.experts is None else self.experts.experts)

    @property
    def active_parameters(self) -> int:
        """Those that take part in one token's way through the model, embedding and head among them."""
        return self._parameters(None if self.experts is None else self.experts.active)

    def adapter_parameters(self, rank: int) -> int:
        """Of low-rank adapters of this rank on all linear layers of the blocks but a mixture's experts."""
        query, key_value = self.heads * self.head_size, self.key_value_heads * self.head_size
        widths = 2 * (self.hidden_size + query) + 2 * (self.hidden_size + key_value)
        feed_forward = 3 * (self.hidden_size + self.intermediate_size)
        dense = self.layers - (0 if self.experts is None else self.experts.layers)
        return rank * (self.layers * widths + dense * feed_forward)

    def _parameters(self, experts_read: int | None) -> int:
        query = self.heads * self.head_size
        key_value = self.key_value_heads * self.head_size
        attention = 2 * self.hidden_size * query + 2 * self.hidden_size * key_value
        if self.attention_bias:
            attention += query + 2 * key_value
        if self.query_key_norm:
            attention += 2 * self.head_size
        feed_forward = 3 * self.hidden_size * self.intermediate_size
        norms = 2 * self.hidden_size
        blocks = self.layers * (attention + feed_forward + norms)
        if self.experts is not None and experts_read is not None:
            mixture = 3 * self.hidden_size * self.experts.intermediate_size
            mixture *= experts_read + self.experts.shared
            mixture += self.experts.experts * self.hidden_size
            blocks += self.experts.layers * (mixture - feed_forward)
        return self.embedding_parameters + blocks + self.hidden_size

    def training_flops(self, tokens: int, length: int, scored_share: float = 1.0) -> float:
        """Floating-point operations of forward and backward passes.

        Three times the forward pass: two for each weight and token, and the attention's products,
        4 L D a token and layer under bidirectional attention over rows of `length` L.

        Args:
            tokens: how many are read.
            length: of a row (or document, where packed ones don't see each other).
            scored_share: share of the tokens that reach the LM head.
        """
        head = 2 * self.vocab_size * self.hidden_size * scored_share
        matrices = 2 * (self.active_parameters - self.embedding_parameters)
        attention = 4 * length * self.heads * self.head_size * self.layers
        return 3.0 * tokens * (matrices + head + attention)
