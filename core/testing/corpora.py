"""The contract of corpora, as tests."""

from __future__ import annotations

from itertools import islice

from opendllm.core.testing.contract import PluginContract
from opendllm.registries.corpora import Corpus, Document, Split

FIRST = 50


class CorpusContract(PluginContract):
    """The same documents every time, and held-out ones that are not trained on."""

    kind = "corpora"

    def first(self, split: Split) -> list[Document]:
        """The first documents of a split."""
        corpus = self.build()
        assert isinstance(corpus, Corpus)
        return list(islice(corpus.documents(split), FIRST))

    def test_documents_come_in_the_same_order_every_time(self) -> None:
        """Resuming a run relies on it."""
        assert self.first("train") == self.first("train")
        assert all(document.text for document in self.first("train"))

    def test_the_splits_do_not_overlap(self) -> None:
        """By name."""
        train = {document.name for document in self.build().documents("train")}
        assert train
        assert not train & {document.name for document in self.first("held-out")}

    def test_the_fingerprint_is_stable(self) -> None:
        """Prepared data is looked up by it."""
        assert self.build().fingerprint() == self.build().fingerprint()
