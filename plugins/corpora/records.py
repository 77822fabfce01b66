"""Documents out of records: plain texts, prompts with responses, chats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from opendllm.core.foundation.notices import warn_once
from opendllm.plugins.corpora.bad_records import BadRecordError
from opendllm.plugins.corpora.chats import answered_turns, read_chat, unweighed_turns, whole_text
from opendllm.registries.corpora import Document


@dataclass(frozen=True)
class RecordFields:
    """Where a record's parts are: a text, or a prompt and a response, or messages.

    Attributes:
        text: field of a plain text; not read where another is given.
        prompt: field of what comes before the response.
        response: goes with it.
        messages: field of a chat, see `read_chat`.
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

    def documents(self, record: Mapping[str, Any], name: str) -> list[Document]:
        """One document; of a chat, one for each of the assistant's turns; none where it is empty.

        Args:
            record: field -> value.
            name: for the documents' names.

        Raises:
            BadRecordError: a field is missing or holds something else.
        """
        if self.messages is not None:
            return self._of_chat(record, self.messages, name)
        if self.prompt is not None and self.response is not None:
            response = _text(record, self.response)
            return [Document(name, response, _text(record, self.prompt))] if response else []
        text = _text(record, self.text)
        return [Document(name, text)] if text else []

    @staticmethod
    def _of_chat(record: Mapping[str, Any], field: str, name: str) -> list[Document]:
        found = record.get(field)
        if not isinstance(found, list):
            raise BadRecordError(
                f"field {field!r} is no list of messages (it is {type(found).__name__}); "
                f"its fields: {', '.join(record)}"
            )
        if record.get("tools"):
            warn_once(
                f"{name}: its tools stand beside its messages, and chat templates are not given them here: "
                f"say them in its system turn where they are to be read"
            )
        try:
            messages = read_chat(found)
            return [
                Document(f"{name}:{turn}", messages[turn].content, tuple(messages[:turn]))
                for turn in answered_turns(messages, unweighed_turns(found))
            ]
        except BadRecordError as error:
            raise BadRecordError(f"field {field!r}: {error}") from error


def _text(record: Mapping[str, Any], field: str) -> str:
    value = record.get(field)
    if value is None and field in record:
        return ""  # a null, as tables have it where there is nothing
    if not isinstance(value, str):
        raise BadRecordError(f"no text in field {field!r}; its fields: {', '.join(record)}")
    try:
        return whole_text(value)
    except BadRecordError as error:
        raise BadRecordError(f"field {field!r} {error}") from error
