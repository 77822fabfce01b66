"""Writes an SQLite database of short notes, for compare.yaml: python make_notes.py notes.db."""

from __future__ import annotations

import random
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

PEOPLE = ("Ada", "Grace", "Alan", "Edsger", "Barbara", "Donald", "Frances", "John")
VERBS = ("wrote", "read", "mended", "measured", "copied", "sent")
THINGS = ("the report", "a small program", "the long table", "two letters", "the old machine", "a proof")
WHEN = ("on Monday", "before lunch", "after the meeting", "late at night", "in the library", "once more")


def write_notes(path: Path, notes: int = 1500, seed: int = 0) -> None:
    """A table `documents` with a column `text`; the file must not be there yet."""
    draws = random.Random(seed)
    texts = [
        " ".join(
            f"{draws.choice(PEOPLE)} {draws.choice(VERBS)} {draws.choice(THINGS)} {draws.choice(WHEN)}."
            for _ in range(draws.randint(2, 5))
        )
        for _ in range(notes)
    ]
    with path.open("xb"), closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE documents (number INTEGER PRIMARY KEY, text TEXT NOT NULL)")
        connection.executemany("INSERT INTO documents (text) VALUES (?)", [(text,) for text in texts])


if __name__ == "__main__":
    write_notes(Path(sys.argv[1]))
