"""The contract of corpora, as tests."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from opendllm.core.testing.contract import PluginContract
from opendllm.registries.corpora import Corpus, Document, Split

FIRST = 50


class CorpusContract(PluginContract):
    """The same documents every time, and held-out ones that are not trained on."""

    kind = "corpora"

    def corpus(self) -> Corpus:
        """The plugin."""
        corpus = self.build()
        assert isinstance(corpus, Corpus), f"it builds a {type(corpus).__name__}: derive it from Corpus"
        return corpus

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
        assert train, "the train split has no documents"
        both = sorted(train & {document.name for document in self.first("held-out")})
        assert not both, f"in both splits: {both[:5]}: hold documents out by name or text, not by chance"

    def test_the_fingerprint_is_stable(self) -> None:
        """Prepared data is looked up by it."""
        first, again = (self.corpus().fingerprint() for _ in range(2))
        assert first == again, f"fingerprints of the same documents: {first} and {again}: hash their content"
