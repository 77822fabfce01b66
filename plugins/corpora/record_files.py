"""A corpus of files of records, matched by a glob and read one record at a time."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opendllm.core.foundation.fingerprints import content_digest
from opendllm.core.foundation.globs import matching_files, printable
from opendllm.core.toolkit.held_out import is_held_out
from opendllm.plugins.corpora import RecordFileOptions
from opendllm.plugins.corpora.bad_records import BadRecordError, BadRecords
from opendllm.plugins.corpora.records import RecordFields
from opendllm.registries.corpora import Corpus, Document, Skipped, Split
from opendllm.registries.errors import UserError


@dataclass(frozen=True)
class Record:
    """One record of a file.

    Attributes:
        number: its line or row.
        content: field -> value; empty where there is an issue.
        issue: why it can't be read, or None.
    """

    number: int
    content: Mapping[str, Any]
    issue: str | None = None


class RecordFiles(Corpus):
    """Records in the order of the sorted paths; without files of its own for it, one in twenty is held out.

    Which those are, the record's first document says, so that copies of a text are all on one side.
    """

    def __init__(self, kind: str, options: RecordFileOptions) -> None:
        """Name the files.

        Args:
            kind: the plugin's name, for errors.
            options: the plugin's.
        """
        self._kind = kind
        self._train = options.train
        self._held_out = options.held_out
        self._fields = options.fields()
        self._skips = options.on_bad_record == "skip"
        self._bad = BadRecords(self._skips)

    @abstractmethod
    def records(self, path: Path, fields: RecordFields) -> Iterator[Record]:
        """Every record of a file; only `fields` need be read.

        Raises:
            UserError: the file is damaged; it says where.
        """

    def documents(self, split: Split) -> Iterator[Document]:
        """See `Corpus.documents`."""
        pattern = self._pattern(split)
        files = matching_files(pattern)
        if not files:
            raise UserError(f"corpus {self._kind}: no {split} file matches {printable(pattern)!r}")
        self._bad.begin(split)
        empty = True
        for file in files:
            for record in self.records(file.path, self._fields):
                try:
                    documents = self._documents(record, f"{file.name}:{record.number}")
                except BadRecordError as error:
                    self._bad.add(split, f"{printable(str(file.path))}:{record.number}", str(error))
                    continue
                if self._is_of(documents, split):
                    empty = False
                    yield from documents
        if empty:
            by_chance = split == "held-out" and self._held_out is None
            hint = "; one record in twenty is, by its text: name files with the option held_out"
            raise UserError(
                f"corpus {self._kind}: the files of {printable(pattern)!r} have no {split} documents"
                f"{hint if by_chance else ''}"
            )

    def fingerprint(self) -> str:
        """The fields, and every file's relative name and bytes: see `content_digest`."""
        train = matching_files(self._train)
        held_out = [] if self._held_out is None else matching_files(self._held_out)
        settings = (self._fields, self._skips, self._held_out is None, len(train))
        return content_digest([*train, *held_out], settings)

    def skipped(self, split: Split) -> Skipped:
        """See `Corpus.skipped`. Of files that are split by chance, a bad record counts for train."""
        by_chance = split == "held-out" and self._held_out is None
        return Skipped() if by_chance else self._bad.of(split)

    def _pattern(self, split: Split) -> str:
        return self._held_out if split == "held-out" and self._held_out is not None else self._train

    def _documents(self, record: Record, name: str) -> list[Document]:
        if record.issue is not None:
            raise BadRecordError(record.issue)
        return self._fields.documents(record.content, name)

    def _is_of(self, documents: list[Document], split: Split) -> bool:
        if self._held_out is not None or not documents:
            return bool(documents)
        key = f"{documents[0].prompt}\0{documents[0].text}"
        return is_held_out(key) == (split == "held-out")
