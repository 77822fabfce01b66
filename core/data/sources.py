"""Several corpora read as one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from opendllm.core.manifest.experiment_manifest import digest
from opendllm.registries.corpora import Corpus, Document


def fingerprint(corpora: Sequence[Corpus]) -> str:
    """Changes whenever a document of one of them does."""
    found = [corpus.fingerprint() for corpus in corpora]
    return found[0] if len(found) == 1 else digest(found)


def held_out_documents(corpora: Sequence[Corpus]) -> Iterator[Document]:
    """All held-out documents; of several corpora one from each in turn, named after it."""
    if len(corpora) == 1:
        yield from corpora[0].documents("held-out")
        return
    left = {number: corpus.documents("held-out") for number, corpus in enumerate(corpora, start=1)}
    while left:
        for number, documents in list(left.items()):
            document = next(documents, None)
            if document is None:
                del left[number]
            else:
                yield replace(document, name=f"{number}:{document.name}")
