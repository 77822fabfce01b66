"""The contract of a corpus."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Split = Literal["train", "held-out"]


@dataclass(frozen=True)
class Message:
    """One turn of a chat.

    Attributes:
        role: who speaks: `system`, `user`, `assistant`, `tool`.
        content: what.
        tool_calls: that an assistant's turn makes, as chat templates take them.
    """

    role: str
    content: str
    tool_calls: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class Document:
    """One text.

    Attributes:
        name: where it came from, relative to what the manifest names: wherever the data lies, the same.
            It seeds what is drawn for the document.
        text: what is learnt.
        prompt: what the text answers, a string or a chat up to there; it is read and never masked.
            None where the text stands alone.
    """

    name: str
    text: str
    prompt: str | tuple[Message, ...] | None = None


@dataclass(frozen=True)
class Skipped:
    """Records that were left out since they can't be read.

    Attributes:
        count: how many.
        first: what is wrong with the first one, and where it is.
    """

    count: int = 0
    first: str = ""


class Corpus(ABC):
    """Yields documents, always the same ones in the same order.

    `documents` is called in one thread and its iterator may be read in another, which reads ahead, one thread
    at a time; several iterators may be open at once, each at its own place. So files and connections are
    opened in `documents`, and nothing that belongs to a thread or to a place is kept in the object.
    """

    @abstractmethod
    def documents(self, split: Split) -> Iterator[Document]:
        """The documents of one split.

        Raises:
            UserError: there are none, or a file can't be read.
        """

    @abstractmethod
    def fingerprint(self) -> str:
        """Changes whenever the documents or their names do, with files and options alike, and not with where
        the files lie; part of the key of everything derived from them.
        """

    def skipped(self, split: Split) -> Skipped:
        """What the last whole reading of a split left out, where an option allows that."""
        return Skipped()
