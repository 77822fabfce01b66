"""Files of JSON lines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from opendllm.core.foundation.json_lines import json_lines
from opendllm.plugins.corpora import JsonlOptions
from opendllm.plugins.corpora.record_files import Record, RecordFiles
from opendllm.plugins.corpora.records import RecordFields


class Jsonl(RecordFiles):
    """One record a line, UTF-8; packed files are unpacked on the way."""

    def __init__(self, options: JsonlOptions) -> None:
        super().__init__("jsonl", options)

    def records(self, path: Path, fields: RecordFields) -> Iterator[Record]:
        """See `RecordFiles.records`."""
        return (Record(line.number, line.content, line.issue) for line in json_lines(path))
