"""What all tests of a backbone start from: small models of each attention that it takes, and a batch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, TypeAlias

import torch
from pydantic import ValidationError
from torch import nn

from opendllm.core.testing.contract import PluginContract
from opendllm.core.toolkit.segments import inputs_from_mask
from opendllm.registries.backbones import Backbone, DiffusionLM, Vocabulary
from opendllm.registries.errors import UserError
from opendllm.registries.options import AttentionKind
from opendllm.registries.sequences import AttentionPattern, ModelInputs

Batch: TypeAlias = tuple[ModelInputs, torch.Tensor, torch.Tensor]
"""What a model's module takes: inputs, targets [B, L] and scored [B, L]."""

VOCABULARY = Vocabulary(size=40, mask_token_id=39, eos_token_id=0)
OTHER_VOCABULARY = Vocabulary(size=43, mask_token_id=7, eos_token_id=3)
"""Whose ids are neither first nor last."""
BATCH = (4, 12)
KINDS: tuple[AttentionKind, ...] = ("bidirectional", "causal", "block-causal")


def training_batch() -> Batch:
    """Rows with every token but the mask in them, some of which are hidden and scored."""
    number = torch.arange(math.prod(BATCH)).view(BATCH)
    tokens = number * 5 % (VOCABULARY.size - 1)
    scored = (number * 29 % number.numel() < 28) & (number % BATCH[1] > 0)
    return inputs_from_mask(tokens.masked_fill(scored, VOCABULARY.mask_token_id), None), tokens, scored


def loss_part(nll: torch.Tensor, chosen: slice) -> torch.Tensor:
    """A loss with a weight and a slope of its own at each position, as objectives have."""
    weight = torch.linspace(0.5, 2, math.prod(BATCH), dtype=torch.float64)[chosen]
    return (weight * nll.double().square()).sum()


def gradients(module: nn.Module, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    """By parameter, zero where none arrives."""
    wanted = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    found = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(wanted, found, strict=True))


class BackboneCase(PluginContract):
    """A backbone, and the models that it gives."""

    kind = "backbones"

    def lm(self, vocabulary: Vocabulary = VOCABULARY) -> DiffusionLM:
        """A model built from scratch."""
        backbone = self.built(Backbone)  # type: ignore[type-abstract]
        torch.manual_seed(0)
        lm = backbone.build(vocabulary)
        assert isinstance(lm, DiffusionLM), (
            f"build gave a {type(lm).__name__}, and a DiffusionLM was expected: derive it from DiffusionLM"
        )
        lm.module.eval()
        return lm

    def of_attention(self, kind: AttentionKind) -> tuple[Backbone, DiffusionLM] | None:
        """The family with that attention pattern, and a model of it; None where the family refuses it."""
        block_length = 4 if kind == "block-causal" else None
        given: dict[str, Any] = {**self.given(), "attention": kind, "block_length": block_length}
        torch.manual_seed(0)
        try:
            backbone: Backbone = self.registration().build(given)
            lm = backbone.build(VOCABULARY)
        except (UserError, ValidationError):
            return None
        lm.module.eval()
        assert lm.attention == AttentionPattern(kind, block_length), (
            f"built with attention {kind} and block_length {block_length}, it says {lm.attention}: give its "
            f"`attention` what the options say, or refuse them with a UserError"
        )
        return backbone, lm

    def models(self) -> Iterator[tuple[Backbone, DiffusionLM]]:
        """The family as it is built, and with each attention pattern that it takes."""
        lm = self.lm()
        yield self.built(Backbone), lm  # type: ignore[type-abstract]
        yield from filter(None, map(self.of_attention, [each for each in KINDS if each != lm.attention.kind]))

    @torch.no_grad()
    def logits(self, lm: DiffusionLM, inputs: ModelInputs) -> torch.Tensor:
        """[B, L, V] aligned."""
        return lm.project(lm.hidden_states(inputs))
