"""A Hugging Face data set, streamed."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from opendllm.core.foundation.fingerprints import content_digest
from opendllm.core.foundation.globs import files_below
from opendllm.core.foundation.hub import dataset_commit
from opendllm.plugins.corpora import HuggingfaceOptions
from opendllm.plugins.corpora.bad_records import BadRecordError, BadRecords
from opendllm.registries.corpora import Corpus, Document, Skipped, Split
from opendllm.registries.errors import UserError, first_line

_SAVED = ("state.json", "dataset_dict.json")


class Huggingface(Corpus):
    """One document a row, in the data set's order; the first ones are held out."""

    def __init__(self, options: HuggingfaceOptions) -> None:
        self._options = options
        self._bad = BadRecords(options.on_bad_record == "skip")

    def documents(self, split: Split) -> Iterator[Document]:
        """See `Corpus.documents`."""
        options = self._options
        first, last = options.held_out_documents, options.train_documents
        chosen = (
            itertools.islice(enumerate(self._rows()), first)
            if split == "held-out"
            else itertools.islice(enumerate(self._rows()), first, None if last is None else first + last)
        )
        fields = options.fields()
        self._bad.begin(split)
        empty = True
        for number, row in chosen:
            name = f"{options.split}:{number}"
            try:
                documents = fields.documents(row, name)
            except BadRecordError as error:
                self._bad.add(split, f"{options.dataset}:{name}", str(error))
                continue
            for document in documents:
                empty = False
                yield document
        if empty:
            raise UserError(f"data set {options.dataset} has no {split} documents")

    def fingerprint(self) -> str:
        """The options, and of a folder every file's name and bytes (see `content_digest`), of a hub id what
        the hub says its commit is.
        """
        folder = Path(self._options.dataset).expanduser()
        if folder.is_dir():
            settings = self._options.model_dump(exclude={"dataset"})
            return content_digest(files_below(folder), settings)
        return content_digest([], (self._options.model_dump(), _commit(self._options.dataset)))

    def skipped(self, split: Split) -> Skipped:
        """See `Corpus.skipped`."""
        return self._bad.of(split)

    def _rows(self) -> Iterator[dict[str, Any]]:
        from datasets import load_dataset

        options = self._options
        folder = Path(options.dataset).expanduser()
        local = folder.is_dir()
        try:
            if not local:
                dataset_commit(options.dataset)  # fails at once where datasets tries for half a minute
            if local and any((folder / name).is_file() for name in _SAVED):
                yield from _saved(folder, options.split)
            else:
                source = str(folder) if local else options.dataset
                yield from load_dataset(source, options.configuration, split=options.split, streaming=True)
        except Exception as error:  # datasets raises a dozen kinds, when opened and while it is read
            hint = "" if local else ": where there is no network, fetch it elsewhere and give its folder"
            why = first_line(error)
            because = str(error).rstrip().rpartition("\n")[2]
            if because.startswith("because"):  # after two schemas: "Couldn't cast ... because"
                why += f" {because}"
                hint = ": fetch it and read its files with the corpus jsonl or parquet, one by one"
            raise UserError(f"data set {options.dataset} cannot be read ({why}){hint}") from error


def _saved(folder: Path, split: str) -> Iterator[dict[str, Any]]:
    """What `save_to_disk` wrote: Arrow files, mapped and not read whole."""
    from datasets import DatasetDict, load_from_disk

    found = load_from_disk(str(folder))
    yield from (found[split] if isinstance(found, DatasetDict) else found)


def _commit(dataset: str) -> str:
    try:
        return str(dataset_commit(dataset))
    except Exception as error:  # no network: the copy in the cache is what there is
        return f"unknown commit ({type(error).__name__})"
