"""The corpora that a manifest names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from opendllm.core.manifest.experiment_manifest import digest
from opendllm.core.manifest.schema import Data
from opendllm.registries.corpora import Corpus, Document
from opendllm.registries.discovery import Plugins


def corpora_of(data: Data, plugins: Plugins) -> list[Corpus]:
    """The plugins that `data` names, built."""
    return [plugins.corpora.get(choice.name).build(choice.options) for choice in data.corpora()]


def fingerprint(data: Data, plugins: Plugins) -> str:
    """Changes whenever a document does."""
    found = [corpus.fingerprint() for corpus in corpora_of(data, plugins)]
    return found[0] if len(found) == 1 else digest(found)


def held_out_documents(data: Data, plugins: Plugins) -> Iterator[Document]:
    """All held-out documents; of a mixture one from each corpus in turn, named after it."""
    corpora = corpora_of(data, plugins)
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
