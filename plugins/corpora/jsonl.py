"""Files of JSON lines."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from opendllm.core.toolkit.record_files import RecordFiles
from opendllm.core.toolkit.records import RecordFields
from opendllm.plugins.corpora import JsonlOptions
from opendllm.registries.errors import UserError


class Jsonl(RecordFiles):
    """One record a line, UTF-8; files named *.gz are unpacked on the way."""

    def __init__(self, options: JsonlOptions) -> None:
        super().__init__("jsonl", options.train, options.held_out, options.fields())

    def records(self, path: Path, fields: RecordFields) -> Iterator[tuple[str, dict[str, Any]]]:
        """See `RecordFiles.records`."""
        number = 0
        try:
            with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as lines:
                for number, line in enumerate(lines, start=1):
                    if line.strip():
                        yield f"{path}:{number}", _parse(line, f"{path}:{number}")
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(f"{path}:{number + 1}: cannot be read ({error})") from error


def _parse(line: bytes, place: str) -> dict[str, Any]:
    try:
        record = json.loads(line.decode().rstrip("\r\n"))
    except UnicodeDecodeError as error:
        raise UserError(f"{place}: is not UTF-8 text (byte {error.start} of the line)") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{place}: is not JSON ({error.msg}, column {error.colno})") from error
    except RecursionError as error:
        raise UserError(f"{place}: is nested too deeply") from error
    if not isinstance(record, dict):
        raise UserError(f"{place}: is no JSON object, but {type(record).__name__}")
    return record
