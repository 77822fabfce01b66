"""A model small enough to enumerate, for testing samplers and likelihoods without transformers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from opendllm.core.toolkit.segments import visibility
from opendllm.registries.backbones import DiffusionLM, DistributionLoss, JointLoss, LossPart
from opendllm.registries.errors import UserError
from opendllm.registries.sequences import AttentionPattern, ModelInputs

WIDTH = 16
CONTEXT = 64
PART = 5
COPIED = 9.0


class TableModule(nn.Module):
    """One uniform mixing layer between an embedding table and an output table."""

    def __init__(self, vocab_size: int, attention: AttentionPattern, reads_time: bool = False) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.tokens = nn.Parameter(torch.randn(vocab_size, WIDTH, generator=generator))
        self.position_embeddings = nn.Parameter(torch.randn(CONTEXT, WIDTH, generator=generator))
        self.output = nn.Parameter(torch.randn(WIDTH, vocab_size, generator=generator))
        self._attention = attention
        self.time = nn.Parameter(torch.randn(WIDTH, generator=generator)) if reads_time else None

    def hidden(self, inputs: ModelInputs) -> Tensor:
        """[B, L, D]: each position mixes what it may see, and knows where it is."""
        embedded = self.tokens[inputs.tokens] + self.position_embeddings[inputs.positions % CONTEXT]
        blocks = self._attention.blocks(inputs.positions) if inputs.blocks is None else inputs.blocks
        visible = visibility(inputs, blocks)
        if visible is None:
            visible = torch.ones(*inputs.tokens.shape, inputs.tokens.shape[1], dtype=torch.bool)
        if self._attention.kind == "causal":
            # Aligned logits of a causal model: position i sees earlier tokens only.
            visible = visible & ~torch.eye(visible.shape[-1], dtype=torch.bool)
        weights = visible.float() / visible.sum(-1, keepdim=True).clamp(min=1)
        hidden = weights.to(embedded.dtype) @ embedded + self.position_embeddings[inputs.positions % CONTEXT]
        if inputs.time is None:
            return hidden
        if self.time is None:
            raise UserError("this table model reads no time: build it with reads_time")
        return hidden + (-inputs.time).exp().float()[..., None] * self.time

    def forward(self, inputs: ModelInputs, targets: Tensor, scored: Tensor, loss_part: LossPart) -> Tensor:
        """See `DiffusionLM.module`; the loss is taken in parts of a few positions."""
        if isinstance(loss_part, DistributionLoss):
            logits = self.hidden(inputs)[scored] @ self.output
            return sum((loss_part.of(logits[part], part) for part in _parts(len(logits))), logits.sum() * 0)
        if isinstance(loss_part, JointLoss):
            return self._joint_loss(inputs, targets, scored, loss_part)
        nll = self.likelihoods(inputs, targets, scored)
        return sum((loss_part(nll[part], part) for part in _parts(len(nll))), nll.sum() * 0)

    def _joint_loss(
        self, inputs: ModelInputs, targets: Tensor, scored: Tensor, loss_part: JointLoss
    ) -> Tensor:
        if not loss_part.guidance_scale:
            return loss_part.of(self.likelihoods(inputs, targets, scored))
        of_prompt, without = (self.hidden(inputs)[scored] @ self.output).chunk(2)
        logits = without + (1 + loss_part.guidance_scale) * (of_prompt - without)
        return loss_part.of(cross_entropy(logits, targets[scored][: len(logits)], reduction="none"))

    def likelihoods(self, inputs: ModelInputs, targets: Tensor, scored: Tensor) -> Tensor:
        """See `DiffusionLM.negative_log_likelihood`."""
        logits = self.hidden(inputs)[scored] @ self.output
        single = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return cross_entropy(single, targets[scored], reduction="none")


def _parts(positions: int) -> list[slice]:
    return [slice(start, min(start + PART, positions)) for start in range(0, positions, PART)]


class TableLM(DiffusionLM):
    """A `DiffusionLM` of a few hundred parameters, the same every time."""

    def __init__(
        self, vocab_size: int = 12, attention: AttentionPattern | None = None, reads_time: bool = False
    ) -> None:
        self.attention = attention or AttentionPattern()
        self.table = TableModule(vocab_size, self.attention, reads_time)
        self.module = self.table
        self.vocab_size = vocab_size
        self.mask_token_id = vocab_size - 1
        self.eos_token_id = 0
        self.context_length = CONTEXT
        self.logit_shift = self.attention.kind == "causal"

    def hidden_states(self, inputs: ModelInputs) -> Tensor:
        """See `DiffusionLM.hidden_states`."""
        return self.table.hidden(inputs)

    def project(self, hidden: Tensor) -> Tensor:
        """See `DiffusionLM.project`."""
        return hidden @ self.table.output

    def negative_log_likelihood(self, inputs: ModelInputs, targets: Tensor, scored: Tensor) -> Tensor:
        """See `DiffusionLM.negative_log_likelihood`."""
        return self.table.likelihoods(inputs, targets, scored)

    def save(self, folder: Path, weights: Mapping[str, Tensor]) -> None:
        """Not kept: it is the same every time."""


class CopyingLM(TableLM):
    """Mostly repeats what it reads: the bound of noise that isn't masks is infinite for a model that doesn't
    keep what noise has left alone. Its hidden states are its logits.
    """

    def hidden_states(self, inputs: ModelInputs) -> Tensor:
        """[B, L, V]."""
        own = nn.functional.one_hot(inputs.tokens, self.vocab_size)
        return super().hidden_states(inputs) @ self.table.output / WIDTH + COPIED * own

    def project(self, hidden: Tensor) -> Tensor:
        """See `DiffusionLM.project`."""
        return hidden
