"""A model whose answers are written down, so that sums over all cases are exact."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from opendllm.registries.backbones import DiffusionLM
from opendllm.registries.sequences import AttentionPattern, ModelInputs


class RandomFunctionLM(DiffusionLM):
    """Logits of every position are a fixed random function of the whole row."""

    def __init__(self, vocab_size: int, seed: int = 0) -> None:
        self.module = nn.Linear(1, 1)
        self.mask_token_id = vocab_size
        self.eos_token_id = None
        self.vocab_size = vocab_size
        self.context_length = 64
        self.attention = AttentionPattern()
        self.logit_shift = False
        self._seed = seed

    def hidden_states(self, inputs: ModelInputs) -> Tensor:
        rows = []
        for row in inputs.tokens.tolist():
            generator = torch.Generator().manual_seed(hash((self._seed, *row)) % 2**31)
            rows.append(torch.randn(len(row), self.vocab_size, generator=generator) * 1.5)
        return torch.stack(rows)

    def project(self, hidden: Tensor) -> Tensor:
        return hidden

    def negative_log_likelihood(self, inputs: ModelInputs, targets: Tensor, scored: Tensor) -> Tensor:
        return cross_entropy(self.hidden_states(inputs)[scored], targets[scored], reduction="none")

    def save(self, folder: Path, weights: Mapping[str, Tensor]) -> None:
        raise NotImplementedError


@pytest.fixture
def random_lm() -> Callable[..., RandomFunctionLM]:
    """(vocab_size, seed) -> such a model; its mask is the id `vocab_size`."""
    return RandomFunctionLM
