"""The running Python's standard library, and packages, as text: files in a fixed order and a fixed split."""

from __future__ import annotations

import functools
import importlib.util
import os
import sysconfig
from collections.abc import Iterable, Iterator
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
    return _files_below(Path(sysconfig.get_paths()["stdlib"]), "")


@functools.cache
def package_files(package: str) -> tuple[tuple[str, Path], ...]:
    """The same of an installed package; names begin with its own.

    Raises:
        UserError: it isn't installed, or is no package.
    """
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    folders = [] if spec is None else list(spec.submodule_search_locations or ())
    if not folders:
        raise UserError(f"corpus python-stdlib: {package!r} is no installed package")
    return tuple(file for folder in folders for file in _files_below(Path(folder), f"{package}/"))


def _files_below(root: Path, prefix: str) -> tuple[tuple[str, Path], ...]:
    found = []
    for folder, below, files in os.walk(root):
        below[:] = [name for name in below if name not in _SKIPPED_FOLDERS]  # site-packages is large
        for name in files:
            if name.endswith(".py"):
                path = Path(folder, name)
                found.append((prefix + path.relative_to(root).as_posix(), path))
    return tuple(sorted(found))


def stdlib_documents(split: Split) -> Iterator[Document]:
    """The library's files of one split.

    Raises:
        UserError: this Python carries no source files.
    """
    documents = source_documents(stdlib_files(), split)
    first = next(documents, None)
    if first is None:
        raise UserError("this Python's standard library has no source files: use another corpus")
    yield first
    yield from documents


def source_documents(files: Iterable[tuple[str, Path]], split: Split) -> Iterator[Document]:
    """Those of one split. A file's name alone decides where it belongs."""
    for name, path in files:
        if is_held_out(name) != (split == "held-out"):
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # a handful of files declare another encoding
        if text.strip():
            yield Document(name, text)
