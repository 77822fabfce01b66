"""Several corpora read as one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from opendllm.core.manifest.schema import Data
from opendllm.registries.corpora import Corpus, Document
from opendllm.registries.errors import UserError

LOOKING_AT_CORPORA = "looking whether the corpus has changed"
"""What `fingerprints` does, as an activity is called: files are read as a whole."""


def fingerprints(
    data: Data, corpora: Sequence[Corpus], unread: dict[str, str] | None = None
) -> dict[str, str]:
    """Corpus, as the manifest has it -> what changes whenever a document of it does.

    Args:
        data: the manifest's.
        corpora: those that it names.
        unread: takes the corpora that can't be read, and why.

    Raises:
        UserError: one can't be read, and nothing takes it.
    """
    keys = ["data.corpus"] if data.corpus else [f"data.mixture.{n}.corpus" for n in range(len(data.mixture))]
    found = {}
    for key, choice, corpus in zip(keys, data.corpora(), corpora, strict=True):
        name = f"{key} ({choice.name})"
        try:
            found[name] = corpus.fingerprint()
        except UserError as error:
            if unread is None:
                raise
            unread[name] = str(error)
    return found


def changed_corpora(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """The corpora of now that were others before, or aren't known to have been the same."""
    return [name for name, found in now.items() if before.get(name) != found]


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
