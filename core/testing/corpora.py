"""The contract of corpora, as tests."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from opendllm.core.testing.contract import PluginContract
from opendllm.registries.corpora import Corpus, Document, Split
from opendllm.registries.errors import UserError

FIRST = 50


class CorpusContract(PluginContract):
    """The same documents every time, and held-out ones that are not trained on."""

    kind = "corpora"

    def corpus(self) -> Corpus:
        """The plugin."""
        return self.built(Corpus)  # type: ignore[type-abstract]

    def first(self, split: Split) -> list[Document]:
        """The first documents of a split."""
        return list(islice(self.corpus().documents(split), FIRST))

    def test_documents_come_in_the_same_order_every_time(self) -> None:
        """Resuming a run relies on it."""
        first, again = self.first("train"), self.first("train")
        names = [[document.name for document in documents[:5]] for documents in (first, again)]
        assert first == again, (
            f"read twice, it begins with {names[0]} and {names[1]}: sort, and seed what is drawn"
        )
        empty = [document.name for document in first if not document.text]
        assert not empty, f"documents without text: {empty}: leave them out"

    def test_a_reading_can_be_taken_up_again(self) -> None:
        """A run that goes on reads anew and skips what it has: a second reader beside a first, half-read one
        begins at the beginning, and both go on to the same documents."""
        corpus, wanted = self.corpus(), self.first("train")
        begun = corpus.documents("train")
        half = list(islice(begun, len(wanted) // 2))
        anew = list(islice(corpus.documents("train"), FIRST))
        rest = list(islice(begun, len(wanted) - len(half)))
        assert anew == wanted, (
            f"a second reading was expected to begin with {_names(wanted)}, and begins with {_names(anew)}: "
            f"let `documents` start from the first document each time it is called"
        )
        assert half + rest == wanted, (
            f"a half-read iterator was expected to go on with {_names(wanted[len(half) :])}, and goes on "
            f"with {_names(rest)}, once another reading has begun: keep its place in the iterator, not in "
            f"the corpus"
        )

    def test_the_held_out_split_is_there(self) -> None:
        """Held-out losses and perplexity are of it; where there is none, it says so."""
        try:
            found = self.first("held-out")
        except UserError:
            return
        assert found, (
            "the held-out split yields nothing: give some documents, or raise a UserError that says why"
        )

    def test_they_can_be_read_in_another_thread(self) -> None:
        """They are read ahead there while others are encoded, whoever asked for them first."""
        corpus, wanted = self.corpus(), self.first("train")
        documents = corpus.documents("train")
        with ThreadPoolExecutor(1) as pool:
            try:
                found = pool.submit(lambda: list(islice(documents, FIRST))).result()
            except Exception as error:
                raise AssertionError(
                    f"another thread can't read it: {error}: open files and connections in `documents`"
                ) from error
        assert found == wanted, "another thread reads other documents: keep nothing that belongs to a thread"

    def test_the_splits_do_not_overlap(self) -> None:
        """By name."""
        train = {document.name for document in self.corpus().documents("train")}
        assert train, "the train split has no documents: yield some, or raise a UserError that says why"
        try:
            held_out = list(self.corpus().documents("held-out"))
        except UserError:  # it has no such split, and says so
            return
        both = sorted(train & {document.name for document in held_out})
        assert not both, f"in both splits: {both[:5]}: hold documents out by name or text, not by chance"

    def test_the_fingerprint_is_stable(self) -> None:
        """Prepared data is looked up by it."""
        first, again = (self.corpus().fingerprint() for _ in range(2))
        assert first == again, f"fingerprints of the same documents: {first} and {again}: hash their content"
        assert isinstance(first, str), f"the fingerprint is a {type(first).__name__}: give a string"
        assert first, "the fingerprint is empty: hash the documents' content"


def _names(documents: list[Document]) -> list[str]:
    return [document.name for document in documents[:3]]
