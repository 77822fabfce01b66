"""A mask token for models and tokenizers that never had one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from opendllm.core import load
from opendllm.core.checkpoints.loading import load_model
from opendllm.core.data.tokenizers import load_tokenizer
from opendllm.registries.backbones import DiffusionLM
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.registry import ChosenPlugin

from .conftest import END, VOCABULARY, Stock, load_as, logits, train_tokenizer


def grown(folder: Path, least: int, mask: int = 5, **options: Any) -> DiffusionLM:
    registration = installed_plugins().backbones.get("causal-lm")
    family: ChosenPlugin[Any, Any] = ChosenPlugin(registration, registration.options.model_validate(options))
    return load_model(folder, family, torch.device("cpu"), torch.float32, mask, least)


def embeddings(lm: DiffusionLM) -> tuple[torch.Tensor, torch.Tensor]:
    network: Any = lm.module.network
    return network.get_input_embeddings().weight, network.get_output_embeddings().weight


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    ("least", "multiple", "expected"),
    [(301, 1, 301), (301, 64, 320), (0, 64, 320), (0, 1, 300), (280, 1, 300), (280, 100, 300)],
)
def test_rows_are_added_at_the_mean_of_the_old(
    stock: Stock, tmp_path: Path, tied: bool, least: int, multiple: int, expected: int
) -> None:
    model = stock(tmp_path, tie_word_embeddings=tied)
    lm = grown(tmp_path, least, pad_vocabulary_to=multiple)
    assert lm.vocab_size == expected
    ours = embeddings(lm)
    assert (ours[0] is ours[1]) is tied
    theirs = (model.get_input_embeddings().weight, model.get_output_embeddings().weight)
    for found, given in zip(ours, theirs, strict=True):
        assert found.shape == (expected, 32)
        assert torch.equal(found[:VOCABULARY], given)
        mean = given.mean(0).expand(expected - VOCABULARY, -1)
        torch.testing.assert_close(found[VOCABULARY:], mean, rtol=0, atol=1e-6)
        assert found.requires_grad


def test_growth_is_the_same_on_every_rank(stock: Stock, tmp_path: Path) -> None:
    stock(tmp_path)
    first, second = (embeddings(grown(tmp_path, 310))[0] for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_grown_model_comes_back_bit_equal(
    stock: Stock, tmp_path: Path, tokens: torch.Tensor, kind: str, tied: bool
) -> None:
    stock(tmp_path / "given", kind, tie_word_embeddings=tied)
    lm = grown(tmp_path / "given", 301, 300, pad_vocabulary_to=8)
    (tmp_path / "saved").mkdir()
    lm.save(tmp_path / "saved", lm.module.state_dict())
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert (config["vocab_size"], config["mask_token_id"]) == (304, 300)
    again = load(tmp_path / "saved", device="cpu").lm
    assert (again.vocab_size, again.mask_token_id, again.logit_shift) == (304, 300, True)
    with_mask = torch.cat([tokens, torch.full((2, 1), 300)], dim=1)
    assert torch.equal(logits(again, with_mask), logits(lm, with_mask))


def test_known_ids_keep_their_logits(stock: Stock, tmp_path: Path, tokens: torch.Tensor) -> None:
    stock(tmp_path)
    before, after = logits(load_as("causal-lm", tmp_path), tokens), logits(grown(tmp_path, 310), tokens)
    torch.testing.assert_close(after[..., :VOCABULARY], before, rtol=0, atol=1e-5)


def test_a_tokenizer_without_mask_token_gets_one(tmp_path: Path) -> None:
    before = train_tokenizer(tmp_path)
    tokenizer = load_tokenizer(str(tmp_path))
    assert before.mask_token_id is None
    assert len(tokenizer) == len(before) + 1
    assert tokenizer.mask_token_id == len(before)
    assert tokenizer("a<|mask|>b")["input_ids"].count(tokenizer.mask_token_id) == 1
    text = "def f(a):\n    return a"
    assert tokenizer(text)["input_ids"] == before(text)["input_ids"]


def test_a_tokenizers_own_mask_token_is_kept(tmp_path: Path) -> None:
    before = train_tokenizer(tmp_path, mask_token=END)
    tokenizer = load_tokenizer(str(tmp_path))
    assert (len(tokenizer), tokenizer.mask_token_id) == (len(before), 0)


def test_the_checkpoints_mask_token_becomes_the_tokenizers(tmp_path: Path) -> None:
    train_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text('{"mask_token_id": 7}')
    tokenizer = load_tokenizer(str(tmp_path))
    assert (len(tokenizer), tokenizer.mask_token_id) == (290, 7)
