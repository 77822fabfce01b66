"""The embedded default corpus."""

from __future__ import annotations

from collections.abc import Iterator

from opendllm.core.foundation.fingerprints import content_digest
from opendllm.core.foundation.globs import MatchedFile
from opendllm.core.toolkit.stdlib_source import (
    package_files,
    source_documents,
    stdlib_documents,
    stdlib_files,
)
from opendllm.plugins.corpora import PythonStdlibOptions
from opendllm.registries.corpora import Corpus, Document, Split


class PythonStdlib(Corpus):
    """One document a source file; one file in twenty is held out, chosen by its name."""

    def __init__(self, options: PythonStdlibOptions) -> None:
        self._packages = options.packages

    def documents(self, split: Split) -> Iterator[Document]:
        """See `Corpus.documents`."""
        yield from stdlib_documents(split)
        for package in self._packages:
            yield from source_documents(package_files(package), split)

    def fingerprint(self) -> str:
        """Every file's name and bytes."""
        files = [*stdlib_files(), *(file for package in self._packages for file in package_files(package))]
        return content_digest([MatchedFile(name, path) for name, path in files], None)
