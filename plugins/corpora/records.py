"""Documents out of records: plain texts, prompts with responses, chats."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from opendllm.registries.corpora import Document, Message
from opendllm.registries.errors import UserError

_ANSWERS = "assistant"


@dataclass(frozen=True)
class RecordFields:
    """Where a record's parts are: a text, or a prompt and a response, or messages.

    Attributes:
        text: field of a plain text; not read where another is given.
        prompt: field of what comes before the response.
        response: goes with it.
        messages: field of a list of {"role": ..., "content": ...}.
    """

    text: str
    prompt: str | None = None
    response: str | None = None
    messages: str | None = None

    @property
    def names(self) -> list[str]:
        """The fields that are read."""
        if self.messages is not None:
            return [self.messages]
        if self.prompt is not None and self.response is not None:
            return [self.prompt, self.response]
        return [self.text]

    def documents(self, record: Mapping[str, Any], name: str) -> Iterator[Document]:
        """One document; of a chat, one for each of the assistant's turns; none where it is empty.

        Args:
            record: field -> value.
            name: where it came from, for the documents' names and for errors.

        Raises:
            UserError: a field is missing or holds something else.
        """
        if self.messages is not None:
            messages = self._messages(record, self.messages, name)
            for turn, message in enumerate(messages):
                if message.role == _ANSWERS and message.content:
                    yield Document(f"{name}:{turn}", message.content, tuple(messages[:turn]))
        elif self.prompt is not None and self.response is not None:
            response = _text(record, self.response, name)
            if response:
                yield Document(name, response, _text(record, self.prompt, name))
        else:
            text = _text(record, self.text, name)
            if text:
                yield Document(name, text)

    @staticmethod
    def _messages(record: Mapping[str, Any], field: str, name: str) -> list[Message]:
        found = record.get(field)
        if not isinstance(found, list) or not all(map(_is_message, found)):
            raise UserError(
                f'{name}: field {field!r} is no list of {{"role": ..., "content": ...}}; '
                f"its fields: {', '.join(record)}"
            )
        messages = [Message(entry["role"], _whole(entry["content"], field, name)) for entry in found]
        answers = [turn for turn, message in enumerate(messages) if message.role == _ANSWERS]
        if not answers or answers[0] == 0:
            raise UserError(f"{name}: the chat in field {field!r} has no message that {_ANSWERS!r} answers")
        return messages


def _text(record: Mapping[str, Any], field: str, name: str) -> str:
    value = record.get(field)
    if value is None and field in record:
        return ""  # a null, as tables have it where there is nothing
    if not isinstance(value, str):
        raise UserError(f"{name}: no text in field {field!r}; its fields: {', '.join(record)}")
    return _whole(value, field, name)


def _whole(text: str, field: str, name: str) -> str:
    """JSON can escape half a character, which no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{name}: field {field!r} is no Unicode text (it holds {text[error.start]!r}, half a character)"
        ) from error
    return text


def _is_message(entry: Any) -> bool:
    return isinstance(entry, Mapping) and all(isinstance(entry.get(key), str) for key in ("role", "content"))
