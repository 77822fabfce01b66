"""What is held out is not trained on: by its text, whichever corpus holds it and under whatever name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

from opendllm.core.toolkit.held_out import text_key
from opendllm.registries.corpora import Corpus, Document


class HeldOutTexts:
    """The texts that any of a run's corpora holds out, as hashes of 16 bytes; read when first asked for."""

    def __init__(self, corpora: Sequence[Corpus]) -> None:
        self._corpora = corpora

    @cached_property
    def _keys(self) -> frozenset[bytes]:
        return frozenset(
            text_key(document) for corpus in self._corpora for document in corpus.documents("held-out")
        )

    def __contains__(self, document: Document) -> bool:
        """Whether a document of this prompt and text is held out; see `text_key` for what is the same."""
        return text_key(document) in self._keys

    def training_documents(self, corpus: Corpus) -> Iterator[Document]:
        """Those of a corpus's training part that no corpus holds out."""
        return (document for document in corpus.documents("train") if document not in self)
