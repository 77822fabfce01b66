"""A corpus's files, copied elsewhere and changed there, and its options, changed."""

from __future__ import annotations

import re
import shutil
import typing
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from opendllm.registries.corpora import Document
from opendllm.registries.options import PluginOptions, path_fields

MOST_BYTES = 64 * 2**20
WORDS = 12
"""How many words of its documents are looked for in its files."""


def files_of(options: PluginOptions) -> dict[str, tuple[Path, str, list[Path]]]:
    """By option that is a path: the folder or file that it names, the glob below it, and the files; none of
    options that name nothing on this machine.
    """
    found = {}
    for name, _ in path_fields(type(options)):
        value = getattr(options, name)
        if not isinstance(value, str):
            continue
        parts = Path(value).parts
        fixed = next((n for n, part in enumerate(parts) if re.search(r"[*?\[]", part)), len(parts))
        root, pattern = Path(*parts[:fixed]), "/".join(parts[fixed:])
        matches = root.glob(pattern) if pattern else root.rglob("*") if root.is_dir() else [root]
        files = sorted(path for path in matches if path.is_file())
        if files and sum(path.stat().st_size for path in files) <= MOST_BYTES:
            found[name] = (root, pattern, files)
    return found


def copied(options: PluginOptions, folder: Path) -> tuple[dict[str, str], list[Path]]:
    """Copy what the options name; the options that name the copies, and these."""
    given, copies = {}, []
    for name, (root, pattern, files) in files_of(options).items():
        place = folder / name / root.resolve().name
        for file in files:
            copy = place if file == root else place / file.relative_to(root)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
            copies.append(copy)
        given[name] = str(place / pattern) if pattern else str(place)
    return given, copies


def changes(documents: Iterator[Document], files: list[Path]) -> Iterator[str]:
    """Exchange a word of a document, one after the other, in the file that has it, for one as long.

    Yields:
        The word, once it is exchanged; afterwards it stands there again.
    """
    words = (word for document in documents for word in re.findall(r"[a-z0-9]{4,}", document.text))
    for word in islice(dict.fromkeys(islice(words, 1000)), WORDS):
        other = word[:-1] + ("q" if word[-1] != "q" else "z")
        for file in files:
            content = file.read_bytes()
            if word.encode() in content:
                file.write_bytes(content.replace(word.encode(), other.encode()))
                yield word
                file.write_bytes(content)
                break


def varied(given: Mapping[str, Any], options: PluginOptions) -> Iterator[dict[str, Any]]:
    """What was given, with one number or switch of the options changed."""
    for name, field in type(options).model_fields.items():
        value = getattr(options, name)
        others: list[float] = []
        if isinstance(value, bool):
            others = [not value]
        elif isinstance(value, int):
            others = [value + 1, value - 1]
        elif isinstance(value, float):
            others = [value / 2, value * 2 + 0.25]
        elif value is None and int in typing.get_args(field.annotation):
            others = [1]
        for other in others:
            yield {**given, name: other}
