"""A text that is given out while it settles is the whole text's beginning."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from opendllm.core.checkpoints.text_codec import TextCodec, TokenFacts
from opendllm.core.serving.settled_text import Ending, SettledText

STOP_ID = 300


BYTE_LEVEL = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
SPELT = sorted(pre_tokenizers.ByteLevel.alphabet())
WORDS = {256: "ab", 257: "ba", 258: "end", 259: "x"}


def codec(*, fallback: bool) -> TextCodec:
    """256 tokens that are bytes, as byte-level tokenizers have them or SentencePiece's; and some words."""
    names = [f"<0x{byte:02X}>" for byte in range(256)] if fallback else SPELT
    vocabulary = {name: number for number, name in enumerate(names)} | {w: n for n, w in WORDS.items()}
    raw = Tokenizer(models.BPE({**vocabulary, "</s>": STOP_ID}, [], byte_fallback=fallback))
    raw.decoder = (
        decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()]) if fallback else decoders.ByteLevel()
    )
    return TextCodec(raw, TokenFacts((), {STOP_ID: "</s>"}))


def byte_tokens(text: str, *, fallback: bool) -> list[int]:
    if fallback:
        return list(text.encode())
    return [SPELT.index(letter) for letter in BYTE_LEVEL.pre_tokenize_str(text)[0][0]]


CODECS = {fallback: codec(fallback=fallback) for fallback in (False, True)}
TOKENS = st.one_of(
    st.integers(256, 259),
    st.sampled_from([*"é€😀a".encode()]),
    st.integers(0, 255),
    st.just(STOP_ID),
)


@given(
    st.booleans(),
    st.lists(TOKENS, max_size=30),
    st.sets(st.integers(0, 30)),
    st.lists(st.sampled_from(["a", "ab", "bab", "é", "end", "xx", "baba"]), max_size=3),
)
@settings(max_examples=200, deadline=None)
def test_the_pieces_make_the_whole_however_many_tokens_settle_together(
    fallback: bool, tokens: list[int], looks: set[int], stops: list[str]
) -> None:
    made = CODECS[fallback]
    _, whole = SettledText(made, [], [STOP_ID], stops).end(tokens)
    text = SettledText(made, [], [STOP_ID], stops)
    pieces: list[str] = []
    ending: Ending | None = None
    for look in sorted(looks):
        piece, ending = text.look(tokens[:look])
        pieces.append(piece)
        if ending is not None:
            break
    if ending is None:
        piece, ending = text.end(tokens)
        pieces.append(piece)
    assert "".join(pieces) == ending.text == whole.text
    assert (ending.reason, ending.tokens) == (whole.reason, whole.tokens)


@pytest.mark.parametrize("fallback", [False, True])
def test_a_character_is_given_out_once_it_is_whole_and_never_in_parts(fallback: bool) -> None:
    ids = byte_tokens("a€b", fallback=fallback)
    text = SettledText(CODECS[fallback], [], [STOP_ID], [])
    given_out = "".join(text.look(ids[:end])[0] for end in range(len(ids) + 1))
    assert "\ufffd" not in given_out
    assert given_out + text.end(ids)[0] == "a€b"


def test_what_may_begin_a_stop_string_is_held_back() -> None:
    made = CODECS[False]
    text = SettledText(made, [], [STOP_ID], ["abx"])
    assert text.look([258])[0] == "end"
    assert text.look([258, 256]) == ("", None)
    assert text.look([258, 256, 257])[0] == "abb"  # the last a may begin one again
    assert text.end([258, 256, 257])[1] == Ending("endabba", 3, "length")


@pytest.mark.parametrize(("tokens", "fewest"), [([256, 259, 258], 2), ([258, 256, 259], 3)])
def test_an_answer_has_the_tokens_that_it_took_up_to_its_stop_string(tokens: list[int], fewest: int) -> None:
    _, ending = SettledText(CODECS[False], [], [STOP_ID], ["bx"]).end([*tokens, 256, 256])
    assert (ending.tokens, ending.reason) == (fewest, "stop")
