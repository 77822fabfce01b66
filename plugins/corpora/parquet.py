"""Parquet files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from opendllm.plugins.corpora import ParquetOptions
from opendllm.plugins.corpora.record_files import Record, RecordFiles
from opendllm.plugins.corpora.records import RecordFields
from opendllm.registries.errors import UserError, first_line

ROWS_AT_ONCE = 256


class Parquet(RecordFiles):
    """One record a row; only the columns that are asked for are read."""

    def __init__(self, options: ParquetOptions) -> None:
        super().__init__("parquet", options)

    def records(self, path: Path, fields: RecordFields) -> Iterator[Record]:
        """See `RecordFiles.records`."""
        import pyarrow
        from pyarrow.parquet import ParquetFile

        number = 0
        try:
            with ParquetFile(path) as file:
                columns = file.schema_arrow.names
                for name in fields.names:
                    if name not in columns:
                        raise UserError(f"{path}: has no column {name!r}; its columns: {', '.join(columns)}")
                for batch in file.iter_batches(ROWS_AT_ONCE, columns=fields.names):
                    for record in batch.to_pylist():
                        yield Record(number, record)
                        number += 1
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: cannot be read from row {number} on ({first_line(error)})") from error
