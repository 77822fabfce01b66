"""The text of an answer while its tokens settle: it only ever grows, and ends as the whole answer does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from opendllm.core.checkpoints.text_codec import TextCodec
from opendllm.registries.errors import UserError


@dataclass(frozen=True)
class Ending:
    """How an answer ends.

    Attributes:
        text: all of it.
        tokens: that it is made of.
        reason: an end token or a stop string was written, or as much as was asked for.
    """

    text: str
    tokens: int
    reason: Literal["stop", "length"]


class SettledText:
    """Turns the settled tokens at the front of a gap into text.

    A stop string cuts where the first one is complete, so that it makes no difference how many tokens are
    looked at together.

    Attributes:
        given: the text that was given out.
    """

    def __init__(
        self, codec: TextCodec, left: Sequence[int], stop_ids: Sequence[int], stop_strings: Sequence[str]
    ) -> None:
        """Begin.

        Args:
            codec: the checkpoint's.
            left: the ids left of the gap.
            stop_ids: of the checkpoint.
            stop_strings: of the request.
        """
        self._codec, self._left = codec, left
        self._stop_ids, self._stop_strings = frozenset(stop_ids), tuple(stop_strings)
        self._seen = -1
        self.given = ""

    def look(self, tokens: Sequence[int]) -> tuple[str, Ending | None]:
        """(What can be given out beside what was, how the answer ends if that is settled).

        Args:
            tokens: all that are settled.
        """
        if len(tokens) == self._seen:
            return "", None
        self._seen = len(tokens)
        kept = self._up_to_stop_id(tokens)
        ending = self._ending(tokens, kept) if len(kept) < len(tokens) else None
        if ending is None:
            text = self._codec.decode_beginning(kept, self._left)
            ending = self._cut(text, kept)
            if ending is None:
                return self._new(text[: len(text) - self._held_back(text)]), None
        return self._new(ending.text), ending

    def end(self, tokens: Sequence[int]) -> tuple[str, Ending]:
        """The same of all tokens.

        Raises:
            UserError: the tokenizer spells the whole otherwise than its beginning.
        """
        ending = self._ending(tokens, self._up_to_stop_id(tokens))
        if not ending.text.startswith(self.given):
            raise UserError("this tokenizer's texts can't be streamed: ask for the whole")
        return self._new(ending.text), ending

    def _ending(self, tokens: Sequence[int], kept: Sequence[int]) -> Ending:
        text = self._codec.decode(kept, self._left)
        reason: Literal["stop", "length"] = "stop" if len(kept) < len(tokens) else "length"
        return self._cut(text, kept) or Ending(text, len(kept), reason)

    def _up_to_stop_id(self, tokens: Sequence[int]) -> Sequence[int]:
        end = next((at for at, token in enumerate(tokens) if token in self._stop_ids), len(tokens))
        return tokens[:end]

    def _cut(self, text: str, tokens: Sequence[int]) -> Ending | None:
        """Where the first stop string is complete; with the fewest tokens that spell it."""
        ends = [(start + len(stop), start) for stop in self._stop_strings if (start := text.find(stop)) >= 0]
        if not ends:
            return None
        end, start = min(ends)
        fewest, most = 1, len(tokens)
        while fewest < most:
            middle = (fewest + most) // 2
            if len(self._codec.decode_beginning(tokens[:middle], self._left)) >= end:
                most = middle
            else:
                fewest = middle + 1
        return Ending(text[:start], fewest, "stop")

    def _held_back(self, text: str) -> int:
        """How many characters at its end may turn out to begin a stop string."""
        longest = max(map(len, self._stop_strings), default=0)
        for length in range(min(longest - 1, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stop_strings):
                return length
        return 0

    def _new(self, text: str) -> str:
        if not text.startswith(self.given):
            return ""
        new = text[len(self.given) :]
        self.given = text
        return new
