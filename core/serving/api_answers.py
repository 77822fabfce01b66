"""The forms of answers, whole and in pieces."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from opendllm.core.serving.settled_text import Ending

DONE = b"data: [DONE]\n\n"


def as_bytes(content: Mapping[str, Any]) -> bytes:
    """JSON of ASCII characters: names of others may hold what can't be encoded."""
    return json.dumps(content).encode()


def server_sent(content: Mapping[str, Any]) -> bytes:
    """An event of a stream."""
    return b"data: " + as_bytes(content) + b"\n\n"


@dataclass(frozen=True)
class Usage:
    """How many tokens were read and written."""

    prompt_tokens: int
    completion_tokens: int

    def content(self) -> dict[str, int]:
        """As the API has it."""
        return {**vars(self), "total_tokens": self.prompt_tokens + self.completion_tokens}


@dataclass(frozen=True)
class AnswerForm:
    """What the answers to one request have in common.

    Attributes:
        model: its name.
        seed: of the draws; no field of the API, but what the same answer is asked for with.
        is_chat: whether it is a chat's.
        echoes: by choice, the text before the answer.
        counts_usage: whether a stream ends with how many tokens it took.
        about: the answer's id and time.
    """

    model: str
    seed: int
    is_chat: bool
    echoes: Sequence[str] = ()
    counts_usage: bool = False
    about: Mapping[str, Any] = field(
        default_factory=lambda: {"id": secrets.token_hex(12), "created": int(time.time())}
    )

    def whole(self, endings: Sequence[Ending], prompt_tokens: int) -> dict[str, Any]:
        """All choices."""
        choices = []
        for index, ending in enumerate(endings):
            said: dict[str, Any] = {"text": self._echo(index) + ending.text}
            if self.is_chat:
                said = {"message": {"role": "assistant", "content": ending.text, "refusal": None}}
            choices.append({"index": index, **said, "logprobs": None, "finish_reason": ending.reason})
        usage = Usage(prompt_tokens, sum(ending.tokens for ending in endings))
        return {**self._head(""), "choices": choices, "usage": usage.content()}

    def opening(self, index: int) -> dict[str, Any] | None:
        """What a choice's stream begins with, before there is any text."""
        if self.is_chat:
            return self._chunk(index, {"delta": {"role": "assistant", "content": ""}}, None)
        return self.piece(index, self._echo(index)) if self._echo(index) else None

    def piece(self, index: int, text: str) -> dict[str, Any]:
        """Some text of a choice."""
        return self._chunk(index, {"delta": {"content": text}} if self.is_chat else {"text": text}, None)

    def ending(self, index: int, reason: str) -> dict[str, Any]:
        """That a choice is whole."""
        return self._chunk(index, {"delta": {}} if self.is_chat else {"text": ""}, reason)

    def usage(self, usage: Usage) -> dict[str, Any]:
        """The last chunk, where it is asked for."""
        return {**self._head(".chunk"), "choices": [], "usage": usage.content()}

    def _chunk(self, index: int, said: Mapping[str, Any], reason: str | None) -> dict[str, Any]:
        choice = {"index": index, **said, "logprobs": None, "finish_reason": reason}
        usage = {"usage": None} if self.counts_usage else {}
        return {**self._head(".chunk"), "choices": [choice], **usage}

    def _head(self, ending: str) -> dict[str, Any]:
        kind = f"chat.completion{ending}" if self.is_chat else "text_completion"
        prefix = "chatcmpl-" if self.is_chat else "cmpl-"
        return {
            "id": prefix + self.about["id"],
            "object": kind,
            "created": self.about["created"],
            "model": self.model,
            "seed": self.seed,
        }

    def _echo(self, index: int) -> str:
        return self.echoes[index] if self.echoes else ""
