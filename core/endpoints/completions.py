"""Requests for text, and what their answers hold, in OpenAI's two forms: completions and chat completions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from opendllm.core.endpoints.faults import ServerError
from opendllm.core.manifest.endpoint_schema import Endpoint
from opendllm.registries.corpora import Message
from opendllm.registries.errors import UserError

MOST_STOPS = 4
"""Stop strings that the API takes."""
LONGEST_TEXT = 1_000_000
"""Characters of an answer; none to any benchmark is nearly as long."""
MOST_MODELS, LONGEST_NAME = 100, 200
"""Of a list of models: names that are read, and characters of each."""
SHORT_TEXT = "a = 1\n"
SEED_BITS = 31
"""Of a seed that every server takes."""


@dataclass(frozen=True)
class Sampling:
    """How text is drawn.

    Attributes:
        max_tokens: that are written at most.
        temperature: of the draws; 0 takes the most probable token.
        top_p: see `DecoderOptions`.
        seed: of the draws; its lowest 31 bits are sent.
    """

    max_tokens: int
    temperature: float
    top_p: float | None
    seed: int


@dataclass(frozen=True)
class ApiRequest:
    """What is sent.

    Attributes:
        path: of the API.
        body: the request's.
    """

    path: str
    body: Mapping[str, Any]

    @property
    def with_short_text(self) -> ApiRequest:
        """The same with a text that is too long for no model, and one seed."""
        short: dict[str, Any] = {"seed": 0}
        if "messages" in self.body:
            short["messages"] = [{"role": "user", "content": SHORT_TEXT}]
        else:
            short["prompt"] = SHORT_TEXT
        if "suffix" in self.body:
            short["suffix"] = SHORT_TEXT
        return ApiRequest(self.path, {**self.body, **short})

    @property
    def suffix(self) -> str | None:
        """What stands right of what is to be written; None where nothing does."""
        return self.body.get("suffix")


@dataclass(frozen=True)
class ServedText:
    """What a server wrote.

    Attributes:
        text: as it gives it.
        tokens: that it says it wrote; None where it doesn't.
        finish_reason: `stop`, `length` or what else it says; None where it doesn't.
    """

    text: str
    tokens: int | None
    finish_reason: str | None


def completion_request(
    endpoint: Endpoint, sampling: Sampling, prompt: str, suffix: str | None, stop: Sequence[str]
) -> ApiRequest:
    """Go on after a prompt, or fill what stands between it and a suffix."""
    body = {"prompt": prompt, **({} if suffix is None else {"suffix": suffix})}
    return ApiRequest("/completions", _body(endpoint, sampling, body, stop))


def chat_request(
    endpoint: Endpoint, sampling: Sampling, messages: Sequence[Mapping[str, Any]], stop: Sequence[str]
) -> ApiRequest:
    """Answer a chat."""
    return ApiRequest("/chat/completions", _body(endpoint, sampling, {"messages": list(messages)}, stop))


def _body(
    endpoint: Endpoint, sampling: Sampling, asked: Mapping[str, Any], stop: Sequence[str]
) -> dict[str, Any]:
    length_field = endpoint.length_field if "messages" in asked else "max_tokens"
    return {
        **endpoint.extra_body,
        "model": endpoint.model,
        **asked,
        length_field: sampling.max_tokens,
        "temperature": sampling.temperature,
        **({} if sampling.top_p is None else {"top_p": sampling.top_p}),
        "seed": sampling.seed & ((1 << SEED_BITS) - 1),
        **({"stop": list(stop[:MOST_STOPS])} if stop else {}),
    }


def packed_messages(messages: Sequence[Message], prefilled: bool = False) -> str:
    """A chat as text, for a benchmark that has turns of its own: the server has the template.

    Raises:
        UserError: the answer's beginning is given, which the API has no form for.
    """
    if prefilled:
        raise UserError("begins the model's answer, which chat completions have no form for")
    return json.dumps([_turn(message) for message in messages], ensure_ascii=False)


def unpacked_messages(text: str) -> list[dict[str, Any]]:
    """The chat that `packed_messages` packed.

    Raises:
        UserError: something was put before or after it.
    """
    try:
        messages: list[dict[str, Any]] = json.loads(text)
    except ValueError:
        raise UserError("puts text around its chat, which chat completions have no form for") from None
    return messages


def _turn(message: Message) -> dict[str, Any]:
    turn: dict[str, Any] = {"role": message.role, "content": message.content}
    return {**turn, "tool_calls": message.tool_calls} if message.tool_calls else turn


def read_text(content: Any) -> ServedText:
    """The first choice of an answer, of either form.

    Raises:
        ServerError: it has none.
    """
    if isinstance(content, dict) and content.get("error") and not content.get("choices"):
        raise ServerError("malformed", "answers 200 with an error in it")
    choices = content.get("choices") if isinstance(content, dict) else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise ServerError("malformed", "answers without `choices`")
    choice = choices[0]
    message = choice.get("message")
    text = message.get("content", "") if isinstance(message, dict) else choice.get("text")
    reason = choice.get("finish_reason")
    if text is None and isinstance(message, dict) and isinstance(reason, str):
        text = ""  # nothing but thoughts or calls
    if not isinstance(text, str):
        raise ServerError("malformed", "answers with a choice that has no text")
    if len(text) > LONGEST_TEXT:
        raise ServerError("malformed", f"answers {len(text):,} characters")
    usage = content.get("usage")
    tokens = usage.get("completion_tokens") if isinstance(usage, dict) else None
    counted = isinstance(tokens, int) and not isinstance(tokens, bool) and tokens >= 0
    return ServedText(
        # Half a surrogate pair is no character; what is whole comes whole out of JSON.
        text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"),
        tokens if counted else None,
        reason if isinstance(reason, str) else None,
    )


def read_prompt_tokens(content: Any) -> int | None:
    """How many tokens a server says that it read; None where it doesn't."""
    usage = content.get("usage") if isinstance(content, dict) else None
    tokens = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    return tokens if isinstance(tokens, int) and not isinstance(tokens, bool) else None


def read_models(content: Any) -> tuple[str, ...] | None:
    """The first names in a list of models, which goes into results; None where it is none."""
    entries = content.get("data") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        return None
    names = [entry.get("id") for entry in entries if isinstance(entry, dict)]
    return tuple(name[:LONGEST_NAME] for name in names if isinstance(name, str))[:MOST_MODELS]
