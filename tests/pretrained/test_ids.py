"""A tokenizer with fewer tokens than the model has ids, or with more."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from opendllm.core import load
from opendllm.core.checkpoints.text_codec import codec_of
from opendllm.core.checkpoints.tokenizer_files import id_count, read_tokenizer
from opendllm.core.evaluation.text_likelihood import TextToScore, score_texts
from opendllm.core.language_model import LanguageModel
from opendllm.registries.errors import UserError

from .conftest import VOCABULARY, Stock, edit_config, train_tokenizer

MASK = VOCABULARY - 1


def loaded(folder: Path) -> LanguageModel:
    return load(folder, backbone="causal-lm", mask_token_id=MASK, device="cpu")


def with_a_hole(folder: Path) -> None:
    """The last token of the vocabulary gets a later id."""
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary[max(vocabulary, key=vocabulary.__getitem__)] = 296
    path.write_text(json.dumps(content))


def test_rows_beyond_the_tokenizer_are_known(stock: Stock, tmp_path: Path) -> None:
    stock(tmp_path)
    train_tokenizer(tmp_path)
    assert loaded(tmp_path).lm.ids_without_token == tuple(range(290, 299))  # 299 is the mask


def test_added_tokens_are_tokens(stock: Stock, tmp_path: Path) -> None:
    stock(tmp_path)
    tokenizer = train_tokenizer(tmp_path)
    tokenizer.add_tokens(["<a>", "<b>"])
    tokenizer.save_pretrained(tmp_path)
    assert read_tokenizer(tmp_path).vocab_size == 290  # which doesn't count them
    assert loaded(tmp_path).lm.ids_without_token == tuple(range(292, 299))


def test_holes_are_known_and_counted(stock: Stock, tmp_path: Path) -> None:
    stock(tmp_path)
    train_tokenizer(tmp_path)
    with_a_hole(tmp_path)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    assert (len(tokenizer), id_count(tokenizer)) == (290, 297)
    assert loaded(tmp_path).lm.ids_without_token == (*range(289, 296), 297, 298)


def test_ids_that_the_config_gives_a_meaning_are_kept(stock: Stock, tmp_path: Path) -> None:
    stock(tmp_path)
    train_tokenizer(tmp_path)
    edit_config(tmp_path, eos_token_id=295)
    assert 295 not in loaded(tmp_path).lm.ids_without_token


def test_without_tokenizer_nothing_is_known(stock: Stock, tmp_path: Path) -> None:
    stock(tmp_path)
    assert loaded(tmp_path).lm.ids_without_token == ()


@pytest.mark.parametrize("temperature", [0.0, 1.0, 1e3])
def test_they_are_never_written(stock: Stock, tmp_path: Path, temperature: float) -> None:
    stock(tmp_path, tie_word_embeddings=False)
    train_tokenizer(tmp_path)
    model = loaded(tmp_path)
    with torch.no_grad():  # which the padding of a real checkpoint would need luck for
        model.lm.network.get_output_embeddings().weight[290:] *= 30
    found: list[int] = []
    options: dict[str, Any] = {"temperature": temperature, "max_new_tokens": 24}
    for sampler in ("p2", "entropy", "low-confidence"):
        gaps = ["def f(a):", "x = "]
        canvas = torch.full((2, 24), MASK)
        found += model.sample(canvas, sampler, temperature=temperature, seed=1).tokens.flatten().tolist()
        assert len(model.generate(gaps, sampler=sampler, seed=1, **options)) == 2
    assert max(found) < 290


@pytest.fixture
def too_small(stock: Stock, tmp_path: Path) -> LanguageModel:
    """A model of 280 ids beside a tokenizer of 290."""
    stock(tmp_path, vocab_size=280)
    train_tokenizer(tmp_path)
    return load(tmp_path, backbone="causal-lm", mask_token_id=1, device="cpu")


def test_a_token_that_the_model_does_not_know_is_one_line(too_small: LanguageModel) -> None:
    tokenizer = too_small.tokenizer
    assert tokenizer is not None
    known, unknown = "x", tokenizer.decode([285])
    assert tokenizer(unknown)["input_ids"] == [285]
    assert len(too_small.generate([known], max_new_tokens=2)) == 1
    calls = [
        lambda: too_small.generate([known, unknown], max_new_tokens=2),
        lambda: too_small.infill([(known, unknown)], 2),
        lambda: too_small.score([f"{known}{unknown}"], draws=1),
        lambda: list(
            score_texts(too_small.lm, codec_of(tokenizer), [TextToScore(known + unknown, 0)], 64, 1)
        ),
        lambda: list(score_texts(too_small.lm, codec_of(tokenizer), [TextToScore(unknown, 0, known)], 64, 1)),
        lambda: too_small.logits(torch.tensor([[285]])),
    ]
    for call in calls:
        with pytest.raises(UserError, match="280") as caught:
            call()
        assert "\n" not in str(caught.value)
