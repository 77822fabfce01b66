"""A corpus of files of records, matched by a glob and read one record at a time."""

from __future__ import annotations

import glob
import hashlib
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from opendllm.core.toolkit.held_out import is_held_out
from opendllm.plugins.corpora.records import RecordFields
from opendllm.registries.corpora import Corpus, Document, Split
from opendllm.registries.errors import UserError


def matching_files(pattern: str) -> list[Path]:
    """The files that a glob matches, sorted."""
    found = glob.glob(str(Path(pattern).expanduser()), recursive=True)  # noqa: PTH207 (absolute patterns)
    return sorted(path for path in map(Path, found) if path.is_file())


class RecordFiles(Corpus):
    """Records in the order of the sorted paths; without files of its own for it, one in twenty is held out.

    Which those are, the record's first document says, so that copies of a text are all on one side.
    """

    def __init__(self, kind: str, train: str, held_out: str | None, fields: RecordFields) -> None:
        """Name the files.

        Args:
            kind: the plugin's name, for errors.
            train: glob of the files to train on.
            held_out: glob of the files to hold out.
            fields: where a record's parts are.
        """
        self._kind = kind
        self._train = train
        self._held_out = held_out
        self._fields = fields

    @abstractmethod
    def records(self, path: Path, fields: RecordFields) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """(location, record) of every record of a file; only `fields` need be read.

        Raises:
            UserError: the file is damaged; it says where.
        """

    def documents(self, split: Split) -> Iterator[Document]:
        """See `Corpus.documents`."""
        pattern = self._pattern(split)
        paths = matching_files(pattern)
        if not paths:
            raise UserError(f"corpus {self._kind}: no {split} file matches {pattern!r}")
        empty = True
        for path in paths:
            for location, record in self.records(path, self._fields):
                for document in self._chosen(record, location, split):
                    empty = False
                    yield document
        if empty:
            by_chance = split == "held-out" and self._held_out is None
            hint = "; one record in twenty is, by its text: name files with the option held_out"
            raise UserError(
                f"corpus {self._kind}: the files of {pattern!r} have no {split} documents"
                f"{hint if by_chance else ''}"
            )

    def fingerprint(self) -> str:
        """The fields, and every file's path, size and time."""
        digest = hashlib.blake2b(repr(self._fields).encode(), digest_size=16)
        for pattern in dict.fromkeys((self._pattern("train"), self._pattern("held-out"))):
            for path in matching_files(pattern):
                status = path.stat()
                digest.update(f"{pattern} {path} {status.st_size} {status.st_mtime_ns}\n".encode())
        return digest.hexdigest()

    def _pattern(self, split: Split) -> str:
        return self._held_out if split == "held-out" and self._held_out is not None else self._train

    def _chosen(self, record: Mapping[str, Any], location: str, split: Split) -> list[Document]:
        documents = list(self._fields.documents(record, location))
        if self._held_out is not None or not documents:
            return documents
        key = f"{documents[0].prompt}\0{documents[0].text}"
        return documents if is_held_out(key) == (split == "held-out") else []
