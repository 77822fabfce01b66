"""Tiny autoregressive checkpoints as transformers itself saves them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from opendllm.core.checkpoints.families import backbone_of
from opendllm.core.checkpoints.loading import load_model
from opendllm.core.toolkit.segments import inputs_from_mask
from opendllm.registries.backbones import DiffusionLM
from opendllm.registries.discovery import installed_plugins

VOCABULARY = 300
END = "<|endoftext|>"
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "bos_token_id": 0,
    "eos_token_id": 0,
}

Stock = Callable[..., PreTrainedModel]
Platform = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def stock() -> Stock:
    """(folder, model_type, dtype, how to save it, sizes) -> a saved stock model."""

    def make(
        folder: Path,
        kind: str = "llama",
        dtype: torch.dtype = torch.float32,
        saving: dict[str, Any] | None = None,
        **sizes: Any,
    ) -> PreTrainedModel:
        torch.manual_seed(0)
        config = AutoConfig.for_model(kind, **{**SIZES, **sizes})
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(std=0.2)
        model.save_pretrained(folder, **(saving or {}))
        return model

    return make


def load_as(backbone: str | None, folder: Path, dtype: torch.dtype | None = None, **options: Any) -> Any:
    """The checkpoint as a DiffusionLM; its mask is the last id."""
    family: Any = backbone_of(installed_plugins(), folder, backbone)
    family = replace(family, options=family.registration.options.model_validate(options))
    return load_model(folder, family, torch.device("cpu"), dtype, VOCABULARY - 1)


@torch.no_grad()
def logits(lm: DiffusionLM, tokens: torch.Tensor) -> torch.Tensor:
    """[B, L, V] aligned."""
    return lm.project(lm.hidden_states(inputs_from_mask(tokens, None)))


@pytest.fixture(scope="session")
def tokens() -> torch.Tensor:
    return torch.randint(0, VOCABULARY - 1, (2, 9), generator=torch.Generator().manual_seed(0))


def train_tokenizer(folder: Path, **special: str) -> PreTrainedTokenizerFast:
    """An autoregressive model's tokenizer of 290 ids, without a mask token, saved in `folder`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=290,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    lines = [f"def f{n}(a):\n    return a + {n}\n" for n in range(50)]
    tokenizer.train_from_iterator(lines, trainer)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, **special)
    wrapped.save_pretrained(folder)
    return wrapped


@pytest.fixture
def autoregressive(stock: Stock, tmp_path: Path) -> Path:
    """A tiny LLaMA with a tokenizer that has no mask token; vocabularies of 290."""
    folder = tmp_path / "autoregressive"
    stock(folder, tie_word_embeddings=True, vocab_size=290)
    train_tokenizer(folder)
    return folder


def edit_config(folder: Path, **changes: Any) -> None:
    """Set keys of config.json; None removes one."""
    path = folder / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def one_line(result: subprocess.CompletedProcess[str]) -> str:
    """What a command was refused with."""
    assert result.returncode == 2, result.stderr
    [line] = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in result.stderr
    return line
