"""Small made-up functions, to learn before problems of the same kind are rewarded."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from opendllm.core.toolkit.synthetic_functions import synthetic_functions
from opendllm.plugins.corpora import SyntheticFunctionsOptions
from opendllm.registries.corpora import Corpus, Document, Split


class SyntheticFunctionsCorpus(Corpus):
    """One document a function: its signature and docstring are the prompt, its body the text."""

    def __init__(self, options: SyntheticFunctionsOptions) -> None:
        self._most_steps = options.most_steps

    def documents(self, split: Split) -> Iterator[Document]:
        """Those of one step first."""
        for each in synthetic_functions(split, self._most_steps):
            yield Document(each.name, each.solution, each.prompt)

    def fingerprint(self) -> str:
        """Of all prompts and texts."""
        digest = hashlib.blake2b(digest_size=16)
        for split in ("train", "held-out"):
            for document in self.documents(split):
                digest.update(f"{document.prompt}{document.text}\0".encode())
        return digest.hexdigest()
