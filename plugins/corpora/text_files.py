"""A corpus of text files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from opendllm.core.toolkit.held_out import is_held_out
from opendllm.plugins.corpora import TextFilesOptions
from opendllm.plugins.corpora.record_files import matching_files
from opendllm.registries.corpora import Corpus, Document, Split
from opendllm.registries.errors import UserError


class TextFiles(Corpus):
    """One document a file, in the order of the sorted paths."""

    def __init__(self, options: TextFilesOptions) -> None:
        self._train = options.train
        self._held_out = options.held_out

    def documents(self, split: Split) -> Iterator[Document]:
        """See `Corpus.documents`."""
        paths = self._paths(split)
        if not paths:
            raise UserError(f"corpus text-files: {self._why_none(split)}")
        for path in paths:
            try:
                text = path.read_text(encoding="utf-8")
            except UnicodeDecodeError as error:
                raise UserError(f"{path} is not UTF-8 text (byte {error.start})") from error
            if text:
                yield Document(str(path), text)

    def fingerprint(self) -> str:
        """Every file's path and content."""
        digest = hashlib.blake2b(digest_size=16)
        for split in ("train", "held-out"):
            for path in self._paths(split):
                with path.open("rb") as file:
                    content = hashlib.file_digest(file, "blake2b").hexdigest()
                digest.update(f"{split} {path} {content}\n".encode())
        return digest.hexdigest()

    def _paths(self, split: Split) -> list[Path]:
        if self._held_out is not None:
            return matching_files(self._held_out if split == "held-out" else self._train)
        every = matching_files(self._train)
        return [path for path in every if is_held_out(path.name) == (split == "held-out")]

    def _why_none(self, split: Split) -> str:
        if self._held_out is not None:
            return f"no {split} file matches {self._held_out if split == 'held-out' else self._train!r}"
        files = len(matching_files(self._train))
        if not files:
            return f"no {split} file matches {self._train!r}"
        other = "all" if split == "train" else "none"
        return (
            f"of {files} files that match {self._train!r} {other} happen to be held out (one in twenty is, "
            f"by its name): name some with the option held_out"
        )
