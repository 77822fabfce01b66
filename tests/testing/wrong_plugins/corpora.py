"""Corpora with one mistake each."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator

from opendllm.registries import PluginOptions
from opendllm.registries.corpora import Corpus, Document, Split

from .wrong import Wrong

OPTIONS = PluginOptions


class Right(Corpus):
    """Forty texts, every tenth of which is held out."""

    def __init__(self, options: PluginOptions) -> None:
        pass

    def documents(self, split: Split) -> Iterator[Document]:
        for number in range(40):
            if (number % 10 == 0) == (split == "held-out"):
                yield Document(f"text-{number}", f"number {number}")

    def fingerprint(self) -> str:
        return "forty"


class Shuffles(Right):
    def documents(self, split: Split) -> Iterator[Document]:
        found = list(super().documents(split))
        random.shuffle(found)
        yield from found


class HoldsNothingOut(Right):
    def documents(self, split: Split) -> Iterator[Document]:
        for number in range(40):
            if split == "train" or number % 10 == 0:
                yield Document(f"text-{number}", f"number {number}")


class OneConnection(Right):
    """SQLite refuses a connection that another thread opened."""

    def __init__(self, options: PluginOptions) -> None:
        self._database = sqlite3.connect(":memory:")

    def documents(self, split: Split) -> Iterator[Document]:
        self._database.execute("select 1")
        yield from super().documents(split)


class KeepsItsPlace(Right):
    """One place for all readings."""

    def __init__(self, options: PluginOptions) -> None:
        self._number = 0

    def documents(self, split: Split) -> Iterator[Document]:
        self._number = 0
        while self._number < 40:
            number, self._number = self._number, self._number + 1
            if (number % 10 == 0) == (split == "held-out"):
                yield Document(f"text-{number}", f"number {number}")


class GoesOn(Right):
    """A second reading goes on where the first one stopped."""

    _reader: Iterator[Document] | None = None

    def documents(self, split: Split) -> Iterator[Document]:
        if self._reader is None:
            self._reader = super().documents(split)
        return self._reader


class OtherFingerprints(Right):
    def fingerprint(self) -> str:
        return str(random.random())


class NoHeldOut(Right):
    def documents(self, split: Split) -> Iterator[Document]:
        if split == "train":
            yield from super().documents(split)


class EmptyTexts(Right):
    def documents(self, split: Split) -> Iterator[Document]:
        for document in super().documents(split):
            yield Document(document.name, "" if document.name == "text-3" else document.text)


WRONG = [
    Wrong(
        Shuffles,
        "test_documents_come_in_the_same_order_every_time",
        "sort, and seed what is drawn",
        frozenset({"test_a_reading_can_be_taken_up_again", "test_they_can_be_read_in_another_thread"}),
    ),
    Wrong(EmptyTexts, "test_documents_come_in_the_same_order_every_time", "leave them out"),
    Wrong(HoldsNothingOut, "test_the_splits_do_not_overlap", "hold documents out by name or text"),
    Wrong(OneConnection, "test_they_can_be_read_in_another_thread", "open files and connections"),
    Wrong(KeepsItsPlace, "test_a_reading_can_be_taken_up_again", "keep its place in the iterator"),
    Wrong(GoesOn, "test_a_reading_can_be_taken_up_again", "from the first document each time"),
    Wrong(OtherFingerprints, "test_the_fingerprint_is_stable", "hash their content"),
    Wrong(NoHeldOut, "test_the_held_out_split_is_there", "raise a UserError that says why"),
]
