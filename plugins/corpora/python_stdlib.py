"""The embedded default corpus."""

from __future__ import annotations

from collections.abc import Iterator

from opendllm.core.foundation.fingerprints import content_digest
from opendllm.core.foundation.globs import MatchedFile
from opendllm.core.toolkit.stdlib_source import stdlib_documents, stdlib_files
from opendllm.plugins.corpora import PythonStdlibOptions
from opendllm.registries.corpora import Corpus, Document, Split


class PythonStdlib(Corpus):
    """One document a source file; one file in twenty is held out, chosen by its name."""

    def __init__(self, options: PythonStdlibOptions) -> None:
        pass

    def documents(self, split: Split) -> Iterator[Document]:
        """See `Corpus.documents`."""
        return stdlib_documents(split)

    def fingerprint(self) -> str:
        """Every file's name and bytes."""
        return content_digest([MatchedFile(name, path) for name, path in stdlib_files()], None)
