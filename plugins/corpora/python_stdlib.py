"""The embedded default corpus."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator

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
        """Python's version, and every file's name and size."""
        digest = hashlib.blake2b(sys.version.encode(), digest_size=16)
        for name, path in stdlib_files():
            digest.update(f"{name} {path.stat().st_size}\n".encode())
        return digest.hexdigest()
