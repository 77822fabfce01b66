"""A corpus of text files."""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Iterator
from pathlib import Path

from opendllm.plugins.corpora import TextFilesOptions
from opendllm.registries.corpora import Corpus, Document, Split
from opendllm.registries.errors import UserError

HELD_OUT_SHARE = 20


class TextFiles(Corpus):
    """One document a file, in the order of the sorted paths."""

    def __init__(self, options: TextFilesOptions) -> None:
        self._train = options.train
        self._held_out = options.held_out

    def documents(self, split: Split) -> Iterator[Document]:
        """See `Corpus.documents`."""
        paths = self._paths(split)
        if not paths:
            pattern = self._held_out if split == "held-out" and self._held_out else self._train
            raise UserError(f"corpus text-files: no {split} file matches {pattern!r}")
        for path in paths:
            try:
                yield Document(str(path), path.read_text(encoding="utf-8"))
            except UnicodeDecodeError as error:
                raise UserError(f"{path} is not UTF-8 text (byte {error.start})") from error

    def fingerprint(self) -> str:
        """Every file's path and content."""
        digest = hashlib.blake2b(digest_size=16)
        for split in ("train", "held-out"):
            for path in self._paths(split):
                content = hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
                digest.update(f"{split} {path} {content}\n".encode())
        return digest.hexdigest()

    def _paths(self, split: Split) -> list[Path]:
        if self._held_out is not None:
            return _matches(self._held_out if split == "held-out" else self._train)
        every = _matches(self._train)
        return [path for path in every if _is_held_out(path) == (split == "held-out")]


def _matches(pattern: str) -> list[Path]:
    found = glob.glob(str(Path(pattern).expanduser()), recursive=True)  # noqa: PTH207 (absolute patterns)
    return sorted(path for path in map(Path, found) if path.is_file())


def _is_held_out(path: Path) -> bool:
    digest = hashlib.blake2b(path.name.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % HELD_OUT_SHARE == 0
