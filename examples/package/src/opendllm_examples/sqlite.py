"""Texts in an SQLite table."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from opendllm.core.foundation.fingerprints import content_digest
from opendllm.core.foundation.globs import MatchedFile
from opendllm.core.toolkit.held_out import is_held_out
from opendllm.registries.corpora import Corpus, Document, Split
from opendllm.registries.errors import UserError

from opendllm_examples import SqliteOptions


class Sqlite(Corpus):
    """One document a row, in the table's own order. One text in twenty is held out, by its hash."""

    def __init__(self, options: SqliteOptions) -> None:
        self._path = Path(options.database)
        self._table = options.table
        self._column = options.column

    def documents(self, split: Split) -> Iterator[Document]:
        """The texts of one split, through a connection of their own.

        Raises:
            UserError: there is no such database, table or column, or a value is no text.
        """
        try:
            with closing(self._connect()) as connection:
                for number, text in connection.execute(self._query(connection)):
                    if text is not None and not isinstance(text, str):
                        raise UserError(
                            f"{self._where} holds {type(text).__name__}, not text, in row {number}"
                        )
                    if text and is_held_out(text) == (split == "held-out"):
                        yield Document(f"{self._path.name}:{self._table}:{number}", text)
        except sqlite3.Error as error:
            raise UserError(f"{self._path} cannot be read as SQLite: {error}") from error

    def fingerprint(self) -> str:
        """Changes with the database's bytes and with what is read of it."""
        if not self._path.is_file():
            raise UserError(f"corpus sqlite: {self._path} is no file")
        database = MatchedFile(self._path.name, self._path)
        return content_digest([database], (self._table, self._column))

    @property
    def _where(self) -> str:
        return f"{self._path}, {self._table}.{self._column}"

    def _connect(self) -> sqlite3.Connection:
        if not self._path.is_file():
            raise UserError(f"corpus sqlite: {self._path} is no file")
        # Read by one thread at a time, but documents may be asked for in one and given up in another.
        read_only = f"{self._path.absolute().as_uri()}?mode=ro"
        return sqlite3.connect(read_only, uri=True, check_same_thread=False)

    def _query(self, connection: sqlite3.Connection) -> str:
        """Names can't be SQL parameters: only ones that the database has get into the query, quoted."""
        found = connection.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")
        tables = sorted(name for (name,) in found)
        if self._table not in tables:
            raise UserError(
                f"{self._path} has no table {self._table!r}: it has {', '.join(tables) or 'none'}"
            )
        described = connection.execute("SELECT name FROM pragma_table_info(?)", (self._table,))
        columns = [name for (name,) in described]
        if self._column not in columns:
            raise UserError(f"{self._path}, {self._table} has no column {self._column!r}: it has {columns}")
        table, column = (name.replace('"', '""') for name in (self._table, self._column))
        return f'SELECT row_number() OVER (), "{column}" FROM "{table}"'
