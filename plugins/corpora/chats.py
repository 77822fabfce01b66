"""Chats as people publish them: OpenAI's messages, with parts and tool calls, and ShareGPT's turns."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from opendllm.plugins.corpora.bad_records import BadRecordError
from opendllm.registries.corpora import Message

ANSWERS = "assistant"
_ROLES = {
    **{role: role for role in ("system", "developer", "user", ANSWERS, "tool", "function")},
    "human": "user",
    "gpt": ANSWERS,
    "chatgpt": ANSWERS,
    "bot": ANSWERS,
    "model": ANSWERS,
}
"""As people name them, in any capitals -> as chat templates do."""
_NOT_READ = ("reasoning_content", "reasoning", "thinking")
"""Where some write what the assistant thought."""
_TEXT_PARTS = frozenset({"text", "input_text", "output_text"})


def read_chat(entries: Sequence[Any]) -> list[Message]:
    """The turns of a chat.

    An entry is `{"role", "content"}` or ShareGPT's `{"from", "value"}`. Contents are texts, or lists of parts
    that are texts, which are put together. Of a turn that calls tools the content may be null.

    Raises:
        BadRecordError: an entry is something else; it is named by its number, from 1.
    """
    messages = []
    for number, entry in enumerate(entries, start=1):
        try:
            messages.append(_message(entry))
        except BadRecordError as error:
            raise BadRecordError(f"entry {number} {error}") from error
    return messages


def unweighed_turns(entries: Sequence[Any]) -> frozenset[int]:
    """The turns that are not to be learnt, by OpenAI's `"weight": 0`.

    Raises:
        BadRecordError: a weight is another than 0 and 1.
    """
    found = set()
    for number, entry in enumerate(entries):
        weight = entry.get("weight")
        if weight not in (None, 0, 1):
            raise BadRecordError(f"entry {number + 1} has the weight {weight!r}, where 0 and 1 are read")
        if weight == 0:
            found.add(number)
    return frozenset(found)


def answered_turns(messages: Sequence[Message], unweighed: frozenset[int]) -> Iterator[int]:
    """The turns that are learnt: the assistant's, with a text; one that calls tools only is read.

    Args:
        messages: the chat.
        unweighed: turns that are only read, see `unweighed_turns`.

    Raises:
        BadRecordError: the assistant speaks first, or never.
    """
    answers = [turn for turn, message in enumerate(messages) if message.role == ANSWERS]
    if answers and answers[0] == 0:
        raise BadRecordError(f"entry 1 is the {ANSWERS}'s, and has no message that it answers")
    learnt = [turn for turn in answers if not messages[turn].tool_calls]
    if not learnt:
        raise BadRecordError(f"the chat has no message that {ANSWERS!r} answers in text")
    return (turn for turn in learnt if messages[turn].content and turn not in unweighed)


def _message(entry: Any) -> Message:
    if not isinstance(entry, Mapping):
        raise BadRecordError(f"is no message, but {type(entry).__name__}")
    role = _first(entry, "role", "from")
    if not isinstance(role, str):
        raise BadRecordError('has no "role" (or "from")')
    name = _ROLES.get(role.strip().lower())
    if name is None:
        raise BadRecordError(f"has the role {role[:40]!r}; known: {', '.join(_ROLES)}")
    apart = next((key for key in _NOT_READ if entry.get(key)), None)
    if apart is not None:
        raise BadRecordError(
            f"has {apart!r}, which no chat template is given here: write it into the content, as the model "
            f"is to write it, or leave it out"
        )
    calls = _tool_calls(entry.get("tool_calls"))
    content = _first(entry, "content", "value")
    if content is None and not calls:
        raise BadRecordError('has no "content" (or "value")')
    return Message(name, "" if content is None else _text(content), calls)


def _first(entry: Mapping[str, Any], *keys: str) -> Any:
    """What the first key holds that has something: tables fill up with nulls."""
    return next((entry[key] for key in keys if entry.get(key) is not None), None)


def _text(content: Any) -> str:
    if isinstance(content, str):
        return whole_text(content)
    if not isinstance(content, list):
        raise BadRecordError(f"has a content that is no text, but {type(content).__name__}")
    texts = []
    for number, part in enumerate(content, start=1):
        if isinstance(part, Mapping) and part.get("type") not in _TEXT_PARTS:
            raise BadRecordError(f"has a part {number} of type {part.get('type')!r}, where only text is read")
        text = part.get("text") if isinstance(part, Mapping) else part
        if not isinstance(text, str):
            raise BadRecordError(f"has a part {number} that is no text")
        texts.append(whole_text(text))
    return "".join(texts)


def _tool_calls(given: Any) -> tuple[Mapping[str, Any], ...]:
    if given is None:
        return ()
    if not isinstance(given, list) or not all(isinstance(call, Mapping) for call in given):
        raise BadRecordError('has "tool_calls" that are no list of objects')
    return tuple(_with_read_arguments(call) for call in given)


def _with_read_arguments(call: Mapping[str, Any]) -> Mapping[str, Any]:
    """OpenAI writes a function's arguments as a text of JSON; chat templates take what it says."""
    function = call.get("function")
    if not isinstance(function, Mapping) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments = json.loads(function["arguments"])
    except ValueError:
        return call
    return {**call, "function": {**function, "arguments": arguments}}


def whole_text(text: str) -> str:
    """JSON can escape half a character, which no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadRecordError(
            f"is no Unicode text (it holds {text[error.start]!r}, half a character)"
        ) from error
    return text
