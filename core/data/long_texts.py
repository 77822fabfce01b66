"""Long texts in parts: a tokenizer holds a few hundred bytes for each character that it is given at once."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

from tokenizers import Encoding, Tokenizer

from opendllm.core.foundation.notices import warn_once

MAX_CHARACTERS = 1 << 16
_SEARCHED_CHARACTERS = 1 << 12
_LOOKED_AT = 1 << 8
"""Characters on either side of a place that tell whether a tokenizer cuts there."""
_TRIED_PLACES = 32
_BOUNDARY = re.compile(r"[^\W_](?=\s)")
"""After a letter or a digit, before white space: there most pre-tokenizers cut by themselves."""
_ESCAPED = re.compile("[\ue000\ue001]")
"""What `TextCodec.escaped` writes around a message's own spelling of a special token."""


def parts(text: str) -> Iterator[str]:
    """`text`, cut at white space, or wherever it grows too long: for what is only counted."""
    start = 0
    while len(text) - start > MAX_CHARACTERS:
        end = start + MAX_CHARACTERS
        for boundary in _BOUNDARY.finditer(text, max(start, end - _SEARCHED_CHARACTERS), end):
            end = boundary.end()
        yield text[start:end]
        start = end
    yield text[start:]


class TextCutter:
    """Cuts texts where their tokens stay the same.

    Merging goes on within a word of the pre-tokenizer's, so a place where two words meet is safe: most texts
    have one at some white space; of another, such as Chinese, all words are looked at. Where there is no
    pre-tokenizer, as SentencePiece has none, a place is safe whose two characters no token has side by side.
    A text without such a place is left whole, and that is said.
    """

    def __init__(self, tokenizer: Tokenizer, templated: bool = False) -> None:
        """Take a copy of `tokenizer`.

        Args:
            tokenizer: as its file has it.
            templated: whether texts are written by a chat template, so that special tokens are tokens.
        """
        content = json.loads(tokenizer.to_str())
        content["post_processor"] = None  # it may cut the spaces off what is said of where a token lies
        content["truncation"] = content["padding"] = None
        self._splits = _splits(content["pre_tokenizer"])
        self._tokenizer = Tokenizer.from_str(json.dumps(content))
        self._tokenizer.encode_special_tokens = not templated

    def parts(self, text: str) -> Iterator[str]:
        """`text` in parts of up to `MAX_CHARACTERS`; longer ones where a shorter would change tokens."""
        start = 0
        while len(text) - start > MAX_CHARACTERS:
            if self._splits:
                end = self._at_white_space(text, start) or self._between_words(text, start)
            else:
                end = self._between_strangers(text, start)
            if end is None:
                warn_once(
                    f"a text of {len(text)} characters has no place where its tokenizer surely cuts, and is "
                    f"tokenised whole: that takes memory, some hundred bytes a character"
                )
                break
            yield text[start:end]
            start = end
        yield text[start:]

    def _at_white_space(self, text: str, start: int) -> int | None:
        """Where words meet, by what stands around it."""
        end = start + MAX_CHARACTERS
        places = [m.end() for m in _BOUNDARY.finditer(text, max(start, end - _SEARCHED_CHARACTERS), end)]
        tried = itertools.islice(reversed(places), _TRIED_PLACES)
        return next((place for place in tried if self._is_between(text, place, words=True)), None)

    def _between_words(self, text: str, start: int) -> int | None:
        """The end of a word, in the first window that has enough of them.

        A window begins where a part does, so its words are the text's; its last two may go on behind it.
        """
        for doubled in itertools.count():
            window = text[start : start + (MAX_CHARACTERS << doubled)]
            if _ESCAPED.search(window):
                return None
            words = _spans(self._tokenizer.encode(window, add_special_tokens=False), words=True)
            ends = (end for _, end in reversed(words[:-2]) if end and not window[end - 1].isspace())
            found = next((end for end in ends if not _inside(end, words)), None)
            if found is not None:
                return start + found
            if start + len(window) == len(text):
                return None
        raise AssertionError

    def _between_strangers(self, text: str, start: int) -> int | None:
        """Between two characters that stand side by side in no token."""
        for place in range(start + MAX_CHARACTERS, start, -1):
            if self._never_meet(text[place - 1 : place + 1]) and self._is_between(text, place, words=False):
                return place
        for place in range(start + MAX_CHARACTERS + 1, len(text)):
            if self._never_meet(text[place - 1 : place + 1]) and self._is_between(text, place, words=False):
                return place
        return None

    def _never_meet(self, pair: str) -> bool:
        if pair not in self._strangers:
            normalizer = self._tokenizer.normalizer
            read = pair if normalizer is None else normalizer.normalize_str(pair)
            written = 0 if normalizer is None else len(normalizer.normalize_str("a")) - 1
            spellings = {pair, read[written:], pair.replace(" ", "▁")}
            whole = len(read) - written == 2  # else characters were put together, or taken apart
            self._strangers[pair] = whole and self._neighbours.isdisjoint(spellings)
        return self._strangers[pair]

    @cached_property
    def _strangers(self) -> dict[str, bool]:
        """The pairs that were asked for."""
        return {}

    @cached_property
    def _neighbours(self) -> frozenset[str]:
        """Every two characters that some token has side by side."""
        vocabulary = self._tokenizer.get_vocab(True)
        return frozenset(a + b for token in vocabulary for a, b in itertools.pairwise(token))

    def _is_between(self, text: str, place: int, words: bool) -> bool:
        """Whether no token, or no word, is seen to go on over a place."""
        first = max(0, place - _LOOKED_AT)
        around = text[first : place + _LOOKED_AT]
        if _ESCAPED.search(around):
            return False
        found = _spans(self._tokenizer.encode(around, add_special_tokens=False), words)
        return not _inside(place - first, found)


def _splits(pre_tokenizer: dict[str, Any] | None) -> bool:
    """Whether a pre-tokenizer, as tokenizer.json has it, makes words."""
    if pre_tokenizer is None:
        return False
    if pre_tokenizer["type"] == "Sequence":
        return any(map(_splits, pre_tokenizer["pretokenizers"]))
    return pre_tokenizer["type"] != "Metaspace" or bool(pre_tokenizer.get("split", True))


def _inside(place: int, spans: Sequence[tuple[int, int]]) -> bool:
    return any(first < place < last for first, last in spans)


def _spans(encoding: Encoding, words: bool) -> list[tuple[int, int]]:
    """The characters [first, last) of each token, or of each word."""
    found: list[tuple[int, int]] = []
    before: int | None = None
    for (first, last), word in zip(encoding.offsets, encoding.word_ids, strict=True):
        if words and word is not None and word == before:
            found[-1] = (found[-1][0], max(found[-1][1], last))
        else:
            found.append((first, last))
        before = word
    return found
