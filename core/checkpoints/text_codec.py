"""Text to token ids and back: the one answer to what BOS, special tokens and spaces do. Imports no torch.

Generation, likelihood, benchmarks and training data all go through `TextCodec`.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from opendllm.core.foundation.notices import warn_once
from opendllm.registries.errors import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

_LEFT_CONTEXT = 16
"""Tokens on the left that a continuation is decoded with: more than one character is ever made of."""
_ANCHORS = ("\n", "=", "x", "1")
"""What a text is put behind where a tokenizer would write a space before it: the first that it doesn't merge
with."""
END_OF_TURN = ("<|eot_id|>", "<|im_end|>", "<|eom_id|>", "<end_of_turn>", "<|end|>", "<|role_end|>")
"""How chat templates end an answer (LLaMA-3's and Qwen's, which LLaDA's and Dream's follow, and others)."""
NO_BOS = "add_bos_token is set, and this tokenizer has no BOS token: leave it out"
_OPEN, _CLOSE = "\ue000", "\ue001"
_LITERAL = re.compile(f"{_OPEN}([0-9a-f]+){_CLOSE}")


@dataclass(frozen=True)
class TokenFacts:
    """What a codec has to know beside the tokenizer's own file; small, so that other processes can have it.

    Attributes:
        bos: what begins a text, by the tokenizer's own word or its user's; mostly one id or none.
        reserved: ids that are never text: special tokens, the mask, what ends a text. By id, how they
            are spelled.
        start: the token before a text that stands alone, where nothing else does: BOS, or else EOS.
        unknown: what a tokenizer writes for characters that it has no token for: reserved where it is
            spelled, and no mistake where it isn't.
    """

    bos: tuple[int, ...]
    reserved: dict[int, str]
    start: int | None = None
    unknown: int | None = None


@dataclass(frozen=True)
class EncodedText:
    """A text as ids.

    Attributes:
        ids: without BOS.
        offsets: the characters [first, last) that each stands for.
    """

    ids: list[int]
    offsets: list[tuple[int, int]]


class TextCodec:
    """A tokenizer at work.

    Raw text never yields a reserved id, whatever it spells: only chat templates write special tokens.
    """

    def __init__(self, tokenizer: Tokenizer, facts: TokenFacts) -> None:
        """Take a tokenizer over: its truncation and padding are switched off."""
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self.facts = facts
        spelled = sorted(filter(None, facts.reserved.values()), key=len, reverse=True)
        self._spelled = re.compile("|".join(map(re.escape, spelled))) if spelled else None

    @property
    def bos(self) -> list[int]:
        """What begins a text."""
        return list(self.facts.bos)

    def encode(self, text: str) -> list[int]:
        """The ids of a text that begins a document, without BOS.

        Raises:
            UserError: it holds half of a surrogate pair, or spells a token that can't be told apart.
        """
        return self._ordinary(text, begins=True).ids

    def encode_with_offsets(self, text: str) -> EncodedText:
        """The same, with the characters that each id stands for."""
        return self._ordinary(text, begins=True)

    def encode_continuation(self, text: str) -> list[int]:
        """The ids of a text that stands right of another: no space is written before it."""
        return self._ordinary(text, begins=False).ids

    def encode_batch(self, texts: Sequence[str], begin: Sequence[bool]) -> list[list[int]]:
        """Several texts, by the tokenizer's own threads: those that `begin` a document, and continuations."""
        anchored = [
            not first and bool(text) and self._writes_space for text, first in zip(texts, begin, strict=True)
        ]
        anchor, before = next(iter(self._anchors.items()), ("", []))
        given = [anchor + text if apart else text for text, apart in zip(texts, anchored, strict=True)]
        for text in texts:
            _refuse_surrogates(text)
        self._tokenizer.encode_special_tokens = True
        found = []
        for number, encoding in enumerate(self._tokenizer.encode_batch_fast(given, add_special_tokens=False)):
            ids = encoding.ids
            if anchored[number]:
                ids = ids[len(before) :] if ids[: len(before)] == before else []
            alone = (anchored[number] and not ids) or not self.facts.reserved.keys().isdisjoint(ids)
            found.append(self._ordinary(texts[number], begin[number]).ids if alone else ids)
        return found

    def encode_rendered(self, text: str, begins: bool = True) -> list[int]:
        """The ids of what a chat template wrote: its special tokens are tokens, a message's own are text.

        Args:
            text: with `escaped` messages. It begins as its template says, so no BOS is added.
            begins: whether nothing stands left of it.
        """
        ids: list[int] = []
        for number, part in enumerate(_LITERAL.split(text)):
            if number % 2:
                ids += self.encode_continuation(bytes.fromhex(part).decode())
            elif part:
                ids += self._encoded(part, begins=begins and not number, special=True).ids
        return ids

    def escaped(self, message: str) -> str:
        """A message that goes into a chat template: what it spells of special tokens stays text."""
        pattern = _OPEN if self._spelled is None else f"{self._spelled.pattern}|{_OPEN}"
        return re.sub(pattern, lambda match: f"{_OPEN}{match[0].encode().hex()}{_CLOSE}", message)

    def decode(self, ids: Sequence[int], left: Sequence[int] = ()) -> str:
        """The text of `ids` where they stand right of `left`; reserved ids are no text.

        A SentencePiece tokenizer drops the first space of what it decodes, so a continuation is decoded
        together with what stands on its left.
        """
        before = [token for token in left if token not in self.facts.reserved][-_LEFT_CONTEXT:]
        own = [token for token in ids if token not in self.facts.reserved]
        whole: str = self._tokenizer.decode([*before, *own])
        if not before:
            return whole
        given: str = self._tokenizer.decode(before)
        if not whole.startswith(given):
            given = given.rstrip("\ufffd")  # a character that is only complete with what follows
        return whole[len(given) :] if whole.startswith(given) else self._tokenizer.decode(own)

    def decode_beginning(self, ids: Sequence[int], left: Sequence[int] = ()) -> str:
        """The beginning of the text of `ids` that no further id on their right changes.

        The bytes of a character are only read as one when all of them are there, and a run of tokens that
        are bytes by their name only when it is over.
        """
        own = [token for token in ids if token not in self.facts.reserved]
        while own and own[-1] in self._bytes:
            own.pop()
        return self.decode(own, left).rstrip("\ufffd")

    @cached_property
    def _bytes(self) -> frozenset[int]:
        """The tokens that stand for a byte, where characters without a token are spelt in bytes."""
        spelt = (self._tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in range(256))
        return frozenset(token for token in spelt if token is not None)

    def _ordinary(self, text: str, begins: bool) -> EncodedText:
        found = self._encoded(text, begins, special=False)
        if not self.facts.reserved.keys() & set(found.ids):
            return found
        # A whole word, or an added token that isn't flagged as special, is found all the same: cut in two.
        assert self._spelled is not None
        cuts = [0, *(match.start() + 1 for match in self._spelled.finditer(text)), len(text)]
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        for start, end in itertools.pairwise(cuts):
            part = self._encoded(text[start:end], begins and start == 0, special=False)
            ids += part.ids
            offsets += [(first + start, last + start) for first, last in part.offsets]
        for token in ids:
            if token in self.facts.reserved and token != self.facts.unknown:
                raise UserError(
                    f"spells {self.facts.reserved[token]!r}, which this tokenizer can't tell from the token "
                    f"itself"
                )
        if self.facts.unknown in ids:
            warn_once(
                f"some characters have no token of this tokenizer's and are read as "
                f"{self.facts.reserved[self.facts.unknown]!r}: likelihoods take them for that"
            )
        return EncodedText(ids, offsets)

    def _encoded(self, text: str, begins: bool, special: bool) -> EncodedText:
        """As the tokenizer has it, where the text begins; without the space that it would write, else.

        Raises:
            UserError: it holds half of a surrogate pair, or what stands on its left can't be told apart.
        """
        _refuse_surrogates(text)
        self._tokenizer.encode_special_tokens = not special
        if begins or not text or not self._writes_space:
            encoding = self._tokenizer.encode(text, add_special_tokens=False)
            return EncodedText(encoding.ids, encoding.offsets)
        for anchor, before in self._anchors.items():
            encoding = self._tokenizer.encode(anchor + text, add_special_tokens=False)
            cut, shift = len(before), len(anchor)
            if encoding.ids[:cut] == before:
                offsets = [(max(0, first - shift), last - shift) for first, last in encoding.offsets[cut:]]
                return EncodedText(encoding.ids[cut:], offsets)
        raise UserError("cannot be read without the space that this tokenizer writes before texts")

    @cached_property
    def _anchors(self) -> dict[str, list[int]]:
        """Those that this tokenizer keeps apart from a text behind them, with their ids."""
        found = {}
        for anchor in _ANCHORS:
            ids: list[int] = self._tokenizer.encode(anchor, add_special_tokens=False).ids
            behind = self._tokenizer.encode(anchor + "(", add_special_tokens=False).ids
            if behind[: len(ids)] == ids:
                found[anchor] = ids
        return found

    @cached_property
    def _writes_space(self) -> bool:
        """Whether a text that begins is read as if a space stood before it."""
        anchor, before = next(iter(self._anchors.items()), ("", []))
        alone = self._tokenizer.encode("(", add_special_tokens=False).ids
        behind = self._tokenizer.encode(anchor + "(", add_special_tokens=False).ids
        return bool(behind[len(before) :] != alone)


def _refuse_surrogates(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"is no text: character {error.start} is a lone surrogate") from error


def codec_of(
    tokenizer: PreTrainedTokenizerFast, also_reserved: Sequence[int] = (), add_bos: bool | None = None
) -> TextCodec:
    """The codec of a tokenizer; see `token_facts`."""
    return TextCodec(tokenizer.backend_tokenizer, token_facts(tokenizer, also_reserved, add_bos))


def token_facts(
    tokenizer: PreTrainedTokenizerFast, also_reserved: Sequence[int] = (), add_bos: bool | None = None
) -> TokenFacts:
    """What a codec has to know of a tokenizer.

    Args:
        tokenizer: with its special tokens.
        also_reserved: ids that its checkpoint names: the mask, and what ends a text.
        add_bos: whether texts begin with BOS; None as the tokenizer's post-processor has it, which
            `add_bos_token` in tokenizer_config.json decides where it stands there.

    Raises:
        UserError: BOS is asked for, and the tokenizer has none.
    """
    special = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
    added = tokenizer.get_added_vocab()
    turns = {added[token] for token in END_OF_TURN if token in added}  # flagged as special or not
    named = {*special, *tokenizer.all_special_ids, *turns, *also_reserved}
    reserved = sorted(token for token in named if token is not None)
    spelled = {token: tokenizer.convert_ids_to_tokens(token) or "" for token in reserved}
    # GPT-2 names one token for everything: where EOS is the unknown token too, it is EOS.
    meant = {tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.mask_token_id, *turns, *also_reserved}
    unknown = None if tokenizer.unk_token_id in meant else tokenizer.unk_token_id
    start = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    if add_bos is None:
        return TokenFacts(written_before(tokenizer), spelled, start, unknown)
    if add_bos and tokenizer.bos_token_id is None:
        raise UserError(NO_BOS)
    bos = (int(tokenizer.bos_token_id),) if add_bos else ()
    return TokenFacts(bos, spelled, start, unknown)


def let_add_bos(tokenizer: PreTrainedTokenizerFast, add_bos_token: bool) -> None:
    """Make a tokenizer say that texts begin with BOS, or that they don't, wherever it is saved and read.

    Raises:
        UserError: it has no BOS token.
    """
    if add_bos_token and tokenizer.bos_token_id is None:
        raise UserError(NO_BOS)
    tokenizer.add_bos_token = add_bos_token
    tokenizer.init_kwargs["add_bos_token"] = add_bos_token


def written_before(tokenizer: PreTrainedTokenizerFast) -> tuple[int, ...]:
    """The ids that the post-processor puts before a text."""
    backend = tokenizer.backend_tokenizer
    plain = backend.encode("x", add_special_tokens=False).ids
    whole = backend.encode("x", add_special_tokens=True).ids
    for start in range(len(whole) - len(plain) + 1):
        if whole[start : start + len(plain)] == plain:
            return tuple(whole[:start])
    return ()
