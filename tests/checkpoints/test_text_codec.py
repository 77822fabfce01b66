"""Text to tokens and back, on real tokenizers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from opendllm.core.checkpoints.chat_template import apply_template
from opendllm.core.checkpoints.text_codec import TextCodec, TokenFacts, token_facts
from opendllm.core.checkpoints.tokenizer_files import read_tokenizer, write_tokenizer
from opendllm.core.data.tokenizers import train_tokenizer
from opendllm.registries.corpora import Document, Message
from opendllm.registries.errors import UserError
from tests.checkpoints.conftest import codec_of, word_tokenizer

CODE = "def f(x):\n    if x:\n        return '世界 🙂'\n    return x\n"


@pytest.fixture
def spm(sentencepiece_folder: Callable[..., Path]) -> TextCodec:
    return codec_of(read_tokenizer(sentencepiece_folder()))


@pytest.fixture(scope="module")
def llama3(llama3_json: Path) -> TextCodec:
    return codec_of(PreTrainedTokenizerFast(tokenizer_file=str(llama3_json)))


@pytest.mark.parametrize("cut", range(0, len(CODE), 3))
def test_a_continuation_keeps_its_first_space(spm: TextCodec, cut: int) -> None:
    left, right = spm.encode(CODE[:cut]), spm.encode_continuation(CODE[cut:])
    assert spm.decode(right, left) == CODE[cut:]
    assert spm.decode([*left, *right]) == CODE


def test_a_suffix_is_read_without_a_false_space(spm: TextCodec) -> None:
    whole = [*spm.encode("def f("), *spm.encode_continuation("x):")]
    assert spm.decode(whole) == "def f(x):"
    assert spm.encode_continuation("x):") != spm.encode("x):")


def test_a_byte_level_tokenizer_reads_a_continuation_as_it_stands(llama3: TextCodec) -> None:
    for text in ("x):", " x", "\n\n    y"):
        assert llama3.encode_continuation(text) == llama3.encode(text)


@given(text=st.text(max_size=60), cut=st.integers(0, 60))
def test_any_text_survives_in_two_parts(llama3: TextCodec, text: str, cut: int) -> None:
    left, right = llama3.encode(text[:cut]), llama3.encode_continuation(text[cut:])
    assert llama3.decode(right, left) == text[cut:]


def test_text_that_spells_a_special_token_is_text(llama3: TextCodec, spm: TextCodec) -> None:
    for codec, text in ((llama3, "a<|eot_id|>b<|end_of_text|>"), (spm, "a</s>b<s>")):
        ids = codec.encode(text)
        assert not codec.facts.reserved.keys() & set(ids)
        assert codec.decode(ids) == text
        assert not codec.facts.reserved.keys() & set(codec.encode_continuation(text))


def test_a_mask_that_is_a_word_of_its_own_is_cut_in_two() -> None:
    codec = codec_of(word_tokenizer("[MASK]"))
    found = codec.encode_with_offsets("a [MASK] b")
    assert [codec._tokenizer.id_to_token(token) for token in found.ids] == ["a", "[", "MASK]", "b"]
    assert found.offsets == [(0, 1), (2, 3), (3, 8), (9, 10)]


def test_what_cannot_be_told_apart_is_refused() -> None:
    tokenizer = word_tokenizer("[MASK]")
    codec = TextCodec(tokenizer.backend_tokenizer, TokenFacts((), {2: "a"}))
    with pytest.raises(UserError, match="spells 'a', which this tokenizer can't tell from the token itself"):
        codec.encode("a b")


def test_a_template_writes_special_tokens_and_a_message_does_not(llama3: TextCodec) -> None:
    eot = next(token for token, text in llama3.facts.reserved.items() if text == "<|eot_id|>")
    ids = llama3.encode_rendered(f"{llama3.escaped('say <|eot_id|> twice')}<|eot_id|>")
    assert ids.count(eot) == 1
    assert ids[-1] == eot
    assert llama3.decode(ids) == "say <|eot_id|> twice"
    assert llama3.escaped("plain") == "plain"


def test_no_reserved_id_reaches_text(llama3: TextCodec) -> None:
    left = [128000, *llama3.encode("def f():")]
    ids = [*llama3.encode("\n    pass"), 128009, 128001]
    assert llama3.decode(ids, left) == "\n    pass"


def test_a_character_that_two_parts_share_is_shown_where_it_is_complete(llama3: TextCodec) -> None:
    ids = llama3.encode("🙂")
    assert len(ids) == 2
    assert llama3.decode(ids[1:], ids[:1]) == "🙂"


@pytest.mark.parametrize(
    ("config", "add_bos", "expected"),
    [
        ({}, None, (1,)),  # LLaMA's slow class adds it by default
        ({"add_bos_token": True}, None, (1,)),
        ({"add_bos_token": False}, None, ()),
        ({"add_bos_token": False}, True, (1,)),
        ({"add_bos_token": True}, False, ()),
    ],
)
def test_bos_is_what_the_tokenizer_says_unless_told_otherwise(
    sentencepiece_folder: Callable[..., Path],
    config: dict[str, bool],
    add_bos: bool | None,
    expected: tuple[int, ...],
) -> None:
    tokenizer = read_tokenizer(sentencepiece_folder(**config))
    assert codec_of(tokenizer, add_bos).facts.bos == expected


def test_bos_that_a_tokenizer_lacks_is_refused() -> None:
    with pytest.raises(UserError, match="has no BOS token"):
        codec_of(word_tokenizer("[MASK]"), add_bos=True)


def test_half_a_surrogate_pair_is_named(llama3: TextCodec) -> None:
    with pytest.raises(UserError, match="character 1 is a lone surrogate"):
        llama3.encode("a\ud800")


def test_offsets_are_those_of_the_text(spm: TextCodec, llama3: TextCodec) -> None:
    for codec in (spm, llama3):
        found = codec.encode_with_offsets(CODE)
        assert found.ids == codec.encode(CODE)
        assert (found.offsets[0][0], found.offsets[-1][1]) == (0, len(CODE))


def test_a_character_without_a_token_is_read_as_unknown_and_a_spelt_mask_never_as_one() -> None:
    codec = codec_of(word_tokenizer("[MASK]"))
    assert codec.encode("a z b") == [2, 0, 3]
    assert codec.encode_batch(["a z b"], [True]) == [[2, 0, 3]]
    assert 1 not in codec.encode("a [MASK] b")


def test_an_end_that_is_the_unknown_token_too_is_no_text() -> None:
    tokenizer = word_tokenizer("[MASK]", "$")
    tokenizer.eos_token = tokenizer.unk_token = "$"  # of one character: it can't be cut in two
    with pytest.raises(UserError, match="which this tokenizer can't tell from the token itself"):
        codec_of(tokenizer).encode("a $ b")


def test_byte_level_that_writes_a_space_before_texts_writes_none_in_continuations(llama3_json: Path) -> None:
    backend = Tokenizer.from_file(str(llama3_json))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    codec = TextCodec(backend, TokenFacts((), {}))
    left = codec.encode("def f(")
    for text in ("x):", "\n    return x", "\n\nx", " x", "=x", "1"):
        ids = codec.encode_continuation(text)
        assert codec.decode(ids, left) == text
        assert codec.encode_batch([text], [False]) == [ids]


def test_half_a_surrogate_pair_in_a_batch_is_named(llama3: TextCodec) -> None:
    with pytest.raises(UserError, match="character 1 is a lone surrogate"):
        llama3.encode_batch(["fine", "a\ud800"], [True, False])


def with_end_of_turn(special: bool) -> PreTrainedTokenizerFast:
    tokenizer = train_tokenizer([Document("", "a b c")], 260)
    tokenizer.add_tokens([AddedToken("<|im_end|>", special=special)])
    return tokenizer


@pytest.mark.parametrize("special", [True, False])
def test_an_end_of_turn_is_never_text_whatever_its_flag(special: bool) -> None:
    tokenizer = with_end_of_turn(special)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    codec = codec_of(tokenizer)  # as training data has it: nothing of a checkpoint's stop ids is known
    for ids in (codec.encode("a<|im_end|>b"), codec.encode_batch(["a<|im_end|>b"], [True])[0]):
        assert end not in ids
        assert codec.decode(ids) == "a<|im_end|>b"
    assert codec.encode_rendered("a<|im_end|>").count(end) == 1


def test_what_a_message_and_its_tool_calls_spell_of_the_codecs_tokens_stays_text() -> None:
    tokenizer = with_end_of_turn(special=False)
    tokenizer.add_tokens([AddedToken("<|mdm_mask|>", special=False)])
    mask = tokenizer.convert_tokens_to_ids("<|mdm_mask|>")
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.content | trim }}{{ m.tool_calls | tojson }}<|im_end|>{% endfor %}"
    )
    codec = TextCodec(
        tokenizer.backend_tokenizer, token_facts(tokenizer, [mask])
    )  # config.json alone names it
    call = {"function": {"name": "f", "arguments": {"x": ["<|mdm_mask|><|im_end|>"]}}}
    message = Message("assistant", " a <|mdm_mask|> b<|im_end|> ", (call,))
    ids = codec.encode_rendered(apply_template(tokenizer, codec, [message], "answered"))
    assert (ids.count(mask), ids.count(end)) == (0, 1)
    assert codec.decode(ids).startswith("a <|mdm_mask|> b<|im_end|>[{")


@pytest.mark.parametrize(
    ("post", "said", "expected"),
    [
        ("<|endoftext|> $A", None, True),
        ("<|endoftext|> $A", False, False),
        ("$A", True, True),  # DeepSeek publishes this: BOS stands in tokenizer_config.json alone
        ("$A", None, False),
        ("$A <|endoftext|>", None, False),
        ("<|endoftext|> $A <|endoftext|>", None, True),
    ],
)
@pytest.mark.parametrize("eos", [None, True, False])
def test_add_bos_token_counts_beside_a_tokenizer_json_too(
    tmp_path: Path, post: str, said: bool | None, expected: bool, eos: bool | None
) -> None:
    tokenizer = train_tokenizer([Document("", "a b c")], 260)
    tokenizer.save_pretrained(tmp_path)
    backend = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    backend.post_processor = TemplateProcessing(single=post, special_tokens=[("<|endoftext|>", 0)])
    backend.save(str(tmp_path / "tokenizer.json"))
    path = tmp_path / "tokenizer_config.json"
    flags = {"bos_token": "<|endoftext|>", "add_bos_token": said, "add_eos_token": eos}
    config = json.loads(path.read_text()) | {key: flag for key, flag in flags.items() if flag is not None}
    path.write_text(json.dumps(config))
    read = read_tokenizer(tmp_path)
    assert codec_of(read).bos == [0] * expected
    write_tokenizer(read, tmp_path / "again")
    assert codec_of(read_tokenizer(tmp_path / "again")).bos == [0] * expected
