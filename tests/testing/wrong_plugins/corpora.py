"""Corpora with one mistake each."""

from __future__ import annotations

import hashlib
import os
import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from pydantic import Field

from opendllm.registries import ManifestPath, PluginOptions
from opendllm.registries.corpora import Corpus, Document, Split

from .wrong import Wrong


class LinesOptions(PluginOptions):
    """Where the texts are."""

    file: ManifestPath = Field(str(Path(__file__).with_name("texts.txt")), description="One text a line.")


class SeedOptions(LinesOptions):
    """Also, in which order."""

    seed: int = Field(0, ge=0, description="Of the order.")


OPTIONS = LinesOptions


class Right(Corpus):
    """The lines of a file, every tenth of which is held out."""

    def __init__(self, options: LinesOptions) -> None:
        self.path = Path(options.file)

    def documents(self, split: Split) -> Iterator[Document]:
        for number, line in enumerate(self.path.read_text().splitlines()):
            if (number % 10 == 0) == (split == "held-out"):
                yield Document(f"text-{number}", line)

    def fingerprint(self) -> str:
        return hashlib.sha256(self.path.read_bytes()).hexdigest()


class Shuffles(Right):
    def documents(self, split: Split) -> Iterator[Document]:
        found = list(super().documents(split))
        random.shuffle(found)
        yield from found


class HoldsNothingOut(Right):
    def documents(self, split: Split) -> Iterator[Document]:
        for number, line in enumerate(self.path.read_text().splitlines()):
            if split == "train" or number % 10 == 0:
                yield Document(f"text-{number}", line)


class OneConnection(Right):
    """SQLite refuses a connection that another thread opened."""

    def __init__(self, options: LinesOptions) -> None:
        super().__init__(options)
        self._database = sqlite3.connect(":memory:")

    def documents(self, split: Split) -> Iterator[Document]:
        self._database.execute("select 1")
        yield from super().documents(split)


class KeepsItsPlace(Right):
    """One place for all readings."""

    def __init__(self, options: LinesOptions) -> None:
        super().__init__(options)
        self._number = 0

    def documents(self, split: Split) -> Iterator[Document]:
        lines, self._number = self.path.read_text().splitlines(), 0
        while self._number < len(lines):
            number, self._number = self._number, self._number + 1
            if (number % 10 == 0) == (split == "held-out"):
                yield Document(f"text-{number}", lines[number])


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


class SameTextsOtherNames(Right):
    """Holds out what it trains on, by another name."""

    def documents(self, split: Split) -> Iterator[Document]:
        for number, line in enumerate(self.path.read_text().splitlines()):
            yield Document(f"{split}-{number}", line)


class OrderOfASet(Right):
    """As a set has them: the same in one process, and others in the next."""

    def documents(self, split: Split) -> Iterator[Document]:
        names = {f"text-{number}": number for number in range(40)}
        lines = self.path.read_text().splitlines()
        for name in set(names):
            if (names[name] % 10 == 0) == (split == "held-out"):
                yield Document(name, lines[names[name]])


class HashOfItsName(Right):
    def fingerprint(self) -> str:
        return str(hash(self.path.read_text()))


class NumberOfItsProcess(Right):
    def fingerprint(self) -> str:
        return str(os.getpid())


class ShufflesLater(Right):
    """A shuffle buffer's worth in order, and then none."""

    def documents(self, split: Split) -> Iterator[Document]:
        yield from super().documents(split)
        numbers = list(range(100, 400))
        random.shuffle(numbers)
        for number in numbers if split == "train" else ():
            yield Document(f"text-{number}", f"number {number}")


class OneName(Right):
    def documents(self, split: Split) -> Iterator[Document]:
        for document in super().documents(split):
            yield Document(split, document.text)


class OfItsSize(Right):
    """Whatever is as long is the same."""

    def fingerprint(self) -> str:
        return str(self.path.stat().st_size)


class AlwaysTheSame(Right):
    def fingerprint(self) -> str:
        return "forty"


class OfWhereItLies(Right):
    """A moved file is prepared anew."""

    def fingerprint(self) -> str:
        return hashlib.sha256(bytes(self.path.absolute()) + self.path.read_bytes()).hexdigest()


class NamedByItsPlace(Right):
    def documents(self, split: Split) -> Iterator[Document]:
        for document in super().documents(split):
            yield Document(f"{self.path.absolute()}:{document.name}", document.text)


class InDrawnOrder(Right):
    """Its order hangs on the seed, and its fingerprint doesn't."""

    def __init__(self, options: SeedOptions) -> None:
        super().__init__(options)
        self._seed = options.seed

    def documents(self, split: Split) -> Iterator[Document]:
        found = list(super().documents(split))
        random.Random(self._seed).shuffle(found)
        yield from found


SAME_ORDER = "test_documents_come_in_the_same_order_every_time"
TAKEN_UP = "test_a_reading_can_be_taken_up_again"
THREAD = "test_they_can_be_read_in_another_thread"
PROCESS = "test_another_process_reads_the_same"
FOLLOWS = "test_the_fingerprint_follows_the_data"
OPTIONS_TOO = "test_the_fingerprint_follows_the_options"
WRONG = [
    Wrong(Shuffles, SAME_ORDER, "sort, and seed what is drawn"),
    Wrong(ShufflesLater, SAME_ORDER, "its documents from number 36 on are"),
    Wrong(EmptyTexts, SAME_ORDER, "leave them out"),
    Wrong(OrderOfASet, PROCESS, "by nothing that hash() has a part in"),
    Wrong(HashOfItsName, PROCESS, "hash the documents' content, with hashlib"),
    Wrong(NumberOfItsProcess, PROCESS, "nor by what a process is"),
    Wrong(HoldsNothingOut, "test_the_splits_do_not_overlap", "hold documents out by name or text"),
    Wrong(SameTextsOtherNames, "test_the_splits_do_not_overlap", "hold documents out by their text"),
    Wrong(OneName, "test_each_document_has_a_name_of_its_own", "name each by its file and its number"),
    Wrong(OneConnection, THREAD, "open files and connections"),
    Wrong(KeepsItsPlace, TAKEN_UP, "keep its place in the iterator"),
    Wrong(GoesOn, TAKEN_UP, "from the first document each time"),
    Wrong(OtherFingerprints, "test_the_fingerprint_is_stable", "hash their content"),
    Wrong(OfItsSize, FOLLOWS, "hash the content of every file"),
    Wrong(AlwaysTheSame, FOLLOWS, "another fingerprint was expected"),
    Wrong(OfWhereItLies, FOLLOWS, "hash what is read, not where it lies"),
    Wrong(NamedByItsPlace, FOLLOWS, "name them relative to what the option names"),
    Wrong(InDrawnOrder, OPTIONS_TOO, "with seed=1 its documents are others", options=SeedOptions),
    Wrong(NoHeldOut, "test_the_held_out_split_is_there", "raise a UserError that says why"),
]
