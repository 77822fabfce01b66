"""Long documents are tokenised in parts: the same tokens, and they still are one document."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from opendllm.core.checkpoints.text_codec import TokenFacts
from opendllm.core.data import encoding, long_texts, tokenizers
from opendllm.core.data.encoding import Encoding, encode_in_order
from opendllm.core.data.long_texts import parts
from opendllm.core.data.tokenizers import make_tokenizer
from opendllm.core.manifest.schema import TokenizerChoice
from opendllm.registries.corpora import Corpus, Document, Split

QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEXTS = [
    "def f(x):\n    return {1: x};\n\n\n  y = 'naïve café'  \r\n" * 30,
    "one  two\tthree\n\n four5 six_7 " * 40,
    "天地玄黄宇宙洪荒" * 60,
    "",
    "short",
]


NO_FACTS = TokenFacts((), {})


def tokenizer(pattern: str | None) -> Tokenizer:
    found = Tokenizer(models.BPE())
    bytewise = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None)
    split = [] if pattern is None else [pre_tokenizers.Split(Regex(pattern), "isolated")]
    found.pre_tokenizer = pre_tokenizers.Sequence([*split, bytewise])
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    found.train_from_iterator(TEXTS, trainer)
    return found


@given(text=st.text(alphabet="ab1_ \n\té天", max_size=300))
def test_parts_are_the_text_and_none_is_too_long(text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(long_texts, "MAX_CHARACTERS", 16)
        found = list(parts(text))
    assert "".join(found) == text
    assert all(0 < len(part) <= 16 for part in found) or found == [""]


@pytest.mark.parametrize("pattern", [None, QWEN])
def test_a_document_in_parts_has_the_tokens_and_the_prompt_of_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str | None
) -> None:
    whole = tokenizer(pattern)
    whole.save(str(tmp_path / "tokenizer.json"))
    monkeypatch.setattr(long_texts, "MAX_CHARACTERS", 64)
    monkeypatch.setattr(encoding, "CHARACTERS_AT_ONCE", 200)
    monkeypatch.setattr(encoding, "BATCHES_BEFORE_PROCESSES", 10**9)
    pairs = [(prompt, text) for text in TEXTS if "天" not in text for prompt in ("", "what? ")]
    batches = list(encode_in_order(iter(pairs), Encoding(tmp_path / "tokenizer.json", NO_FACTS, 7)))
    assert any(not len(batch.lengths) for batch in batches), "no document is longer than a batch"
    ids, lengths, prompts = (
        np.concatenate([getattr(batch, name) for batch in batches]) for name in ("ids", "lengths", "prompts")
    )
    given_ids = [whole.encode(prompt).ids for prompt, _ in pairs]
    expected = [
        [*given, *whole.encode(text).ids, 7] for given, (_, text) in zip(given_ids, pairs, strict=True)
    ]
    assert [document.tolist() for document in np.split(ids, lengths.cumsum()[:-1])] == expected
    assert prompts.tolist() == list(map(len, given_ids))


def test_a_text_without_white_space_is_cut_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tokenizer(None)
    whole.save(str(tmp_path / "tokenizer.json"))
    monkeypatch.setattr(long_texts, "MAX_CHARACTERS", 64)
    [batch] = encode_in_order(iter([("", TEXTS[2])]), Encoding(tmp_path / "tokenizer.json", NO_FACTS, 7))
    assert len(batch.lengths) == 1
    assert whole.decode(batch.ids[:-1].tolist()).replace(" ", "") == whole.decode(
        whole.encode(TEXTS[2]).ids
    ).replace(" ", "")


def test_a_tokenizer_is_trained_on_the_beginning_of_one_long_document(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Long(Corpus):
        def documents(self, split: Split) -> Iterator[Document]:
            yield Document("", "ab" * 50 + "yz" * 5000)

        def fingerprint(self) -> str:
            return "x"

    monkeypatch.setattr(tokenizers, "CHARACTERS_TRAINED_ON", 100)
    choice = TokenizerChoice.model_validate({"train": {"vocab_size": 300}})
    vocabulary = make_tokenizer(choice, [Long().documents("train")]).get_vocab()
    assert "ab" in vocabulary
    assert "yz" not in vocabulary
