"""The running Python's standard library as text: files in a fixed order and a fixed split."""

from __future__ import annotations

import functools
import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from opendllm.core.toolkit.held_out import is_held_out
from opendllm.registries.corpora import Document, Split
from opendllm.registries.errors import UserError

_SKIPPED_FOLDERS = frozenset({"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"})


@functools.cache
def stdlib_files() -> tuple[tuple[str, Path], ...]:
    """(name relative to the library's folder, path) of each source file, sorted by name.

    Tests are left out: much of them is generated tables. Looked for once a process.
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    found = []
    for folder, below, files in os.walk(root):
        below[:] = [name for name in below if name not in _SKIPPED_FOLDERS]  # site-packages is large
        for name in files:
            if name.endswith(".py"):
                path = Path(folder, name)
                found.append((path.relative_to(root).as_posix(), path))
    return tuple(sorted(found))


def stdlib_documents(split: Split) -> Iterator[Document]:
    """The files of one split. A file's name alone decides where it belongs.

    Raises:
        UserError: this Python carries no source files.
    """
    empty = True
    for name, path in stdlib_files():
        if is_held_out(name) != (split == "held-out"):
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # a handful of files declare another encoding
        if text.strip():
            empty = False
            yield Document(name, text)
    if empty:
        raise UserError("this Python's standard library has no source files: use another corpus")
