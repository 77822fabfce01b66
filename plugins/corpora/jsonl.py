"""Files of JSON lines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from opendllm.core.foundation.json_lines import json_lines
from opendllm.plugins.corpora import JsonlOptions
from opendllm.plugins.corpora.record_files import RecordFiles
from opendllm.plugins.corpora.records import RecordFields
from opendllm.registries.errors import UserError


class Jsonl(RecordFiles):
    """One record a line, UTF-8; gzipped files are unpacked on the way."""

    def __init__(self, options: JsonlOptions) -> None:
        super().__init__("jsonl", options.train, options.held_out, options.fields())

    def records(self, path: Path, fields: RecordFields) -> Iterator[tuple[str, dict[str, Any]]]:
        """See `RecordFiles.records`."""
        for line in json_lines(path):
            if line.issue is not None:
                raise UserError(f"{path}:{line.number}: {line.issue}")
            yield f"{path}:{line.number}", line.content
