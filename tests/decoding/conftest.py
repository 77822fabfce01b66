"""A model whose logits are written down."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from opendllm.core.checkpoints.loading import Checkpoint
from opendllm.core.language_model import LanguageModel
from opendllm.registries.backbones import DiffusionLM
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.options import SamplerOptions
from opendllm.registries.sequences import AttentionPattern, ModelInputs


class WrittenLM(DiffusionLM):
    """Logits [B, L, V] given by a function of the inputs; id 0 is the mask."""

    def __init__(self, logits: Callable[[ModelInputs], Tensor], vocab_size: int) -> None:
        self.module = nn.Linear(1, 1)
        self.mask_token_id = 0
        self.eos_token_id = None
        self.vocab_size = vocab_size
        self.context_length = 4096
        self.attention = AttentionPattern()
        self.logit_shift = False
        self.passes = 0
        self._logits = logits

    def hidden_states(self, inputs: ModelInputs) -> Tensor:
        self.passes += 1
        return self._logits(inputs)

    def project(self, hidden: Tensor) -> Tensor:
        return hidden

    def negative_log_likelihood(self, inputs: ModelInputs, targets: Tensor, scored: Tensor) -> Tensor:
        raise NotImplementedError

    def save(self, folder: Path, weights: Mapping[str, Tensor]) -> None:
        raise NotImplementedError


@pytest.fixture
def written_model() -> Callable[..., LanguageModel]:
    """(function of the inputs, or a table [L, V] or [V]) -> a model with those logits."""

    def make(logits: Callable[[ModelInputs], Tensor] | Tensor) -> LanguageModel:
        if isinstance(logits, Tensor):
            table = logits

            def answer(inputs: ModelInputs) -> Tensor:
                return table.expand(*inputs.tokens.shape, -1).clone()

            return LanguageModel(
                Checkpoint(WrittenLM(answer, table.shape[-1]), None, None), "entropy", installed_plugins()
            )
        size = logits(ModelInputs(*(torch.ones(1, 8, dtype=torch.int64),) * 3)).shape[-1]
        return LanguageModel(Checkpoint(WrittenLM(logits, size), None, None), "entropy", installed_plugins())

    return make


@pytest.fixture(scope="session")
def usable() -> Callable[..., dict[str, Any]]:
    """(sampler, options) -> those decoder options that it reads, and its own that a tiny model needs."""

    def choose(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
        sampler = installed_plugins().samplers.get(name).options
        assert issubclass(sampler, SamplerOptions)
        kept = {key: value for key, value in options.items() if key not in sampler.without_effect}
        if kept.get("temperature", 0) == 0 and not sampler.reads_filtered:
            kept |= {"top_p": None, "top_k": None}  # filters that could have no effect are refused
        return kept | ({"expand_token_id": 2, "expand_budget": 5} if name == "dreamon" else {})

    return choose
