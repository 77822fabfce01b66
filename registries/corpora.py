"""The contract of a corpus."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Split = Literal["train", "held-out"]


@dataclass(frozen=True)
class Message:
    """One turn of a chat: who speaks (`system`, `user`, `assistant`), and what."""

    role: str
    content: str


@dataclass(frozen=True)
class Document:
    """One text.

    Attributes:
        name: where it came from.
        text: what is learnt.
        prompt: what the text answers, a string or a chat up to there; it is read and never masked.
            None where the text stands alone.
    """

    name: str
    text: str
    prompt: str | tuple[Message, ...] | None = None


class Corpus(ABC):
    """Yields documents, always the same ones in the same order."""

    @abstractmethod
    def documents(self, split: Split) -> Iterator[Document]:
        """The documents of one split.

        Raises:
            UserError: there are none, or a file can't be read.
        """

    @abstractmethod
    def fingerprint(self) -> str:
        """Changes whenever the documents do; part of the key of everything derived from them."""
