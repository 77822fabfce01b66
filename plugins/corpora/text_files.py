"""A corpus of text files."""

from __future__ import annotations

from collections.abc import Iterator

from opendllm.core.foundation.fingerprints import content_digest
from opendllm.core.foundation.globs import MatchedFile, matching_files, printable
from opendllm.core.foundation.packed_files import read_unpacked
from opendllm.core.toolkit.held_out import is_held_out
from opendllm.plugins.corpora import TextFilesOptions
from opendllm.registries.corpora import Corpus, Document, Split
from opendllm.registries.errors import UserError


class TextFiles(Corpus):
    """One document a file, in the order of the sorted paths: all it holds, its line ends as they are.

    A byte order mark is no part of the text. Packed files are unpacked.
    """

    def __init__(self, options: TextFilesOptions) -> None:
        self._train = options.train
        self._held_out = options.held_out

    def documents(self, split: Split) -> Iterator[Document]:
        """See `Corpus.documents`."""
        files = self._files(split)
        if not files:
            raise UserError(f"corpus text-files: {self._why_none(split)}")
        for file in files:
            try:
                text = read_unpacked(file.path).decode("utf-8-sig")
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{printable(str(file.path))} is not UTF-8 text (byte {error.start})"
                ) from error
            if text:
                yield Document(file.name, text)

    def fingerprint(self) -> str:
        """Every file's relative name and bytes: see `content_digest`."""
        train, held_out = self._files("train"), self._files("held-out")
        return content_digest([*train, *held_out], len(train))

    def _files(self, split: Split) -> list[MatchedFile]:
        if self._held_out is not None:
            return matching_files(self._held_out if split == "held-out" else self._train)
        every = matching_files(self._train)
        return [file for file in every if is_held_out(file.path.name) == (split == "held-out")]

    def _why_none(self, split: Split) -> str:
        if self._held_out is not None:
            pattern = self._held_out if split == "held-out" else self._train
            return f"no {split} file matches {printable(pattern)!r}"
        files = len(matching_files(self._train))
        if not files:
            return f"no {split} file matches {printable(self._train)!r}"
        other = "all" if split == "train" else "none"
        return (
            f"of {files} files that match {printable(self._train)!r} {other} happen to be held out "
            f"(one in twenty is, by its name): name some with the option held_out"
        )
