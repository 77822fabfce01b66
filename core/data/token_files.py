"""A split's tokens and rows on disk: plain arrays, written as they come and read memory-mapped."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np
from numpy.typing import NDArray

from opendllm.core.data.encoding import EncodedBatch
from opendllm.core.data.packing import Packer, Packing
from opendllm.registries.corpora import Split

_ARRAYS = {
    "tokens": np.uint32,
    "starts": np.int64,
    "lengths": np.int32,
    "prompts": np.int32,
    "row-ends": np.int64,
}


@dataclass
class SplitFacts:
    """What a split is made of.

    Attributes:
        documents: all that were read.
        tokens: of them, EOS included.
        rows: that they make.
        packed_tokens: in the rows; a document's end that doesn't fit beside its prompt is not.
        prompted: documents that have a prompt, if an empty one.
        shortened: of these, how many lost their end.
        dropped: of these, how many have a prompt that fills a row.
        held_out: documents of the training part that are left out, as they are held out too.
        skipped: records that can't be read and are left out, since the corpus's options say so.
    """

    documents: int = 0
    tokens: int = 0
    rows: int = 0
    packed_tokens: int = 0
    prompted: int = 0
    shortened: int = 0
    dropped: int = 0
    held_out: int = 0
    skipped: int = 0

    def as_json(self) -> dict[str, int]:
        """For data.json."""
        return asdict(self)


class SplitWriter:
    """Appends encoded documents, and rows as soon as they are known."""

    def __init__(self, folder: Path, split: Split, row_length: int, packed: bool) -> None:
        self._folder = folder
        self._split = split
        self._packer = Packer(row_length, one_piece_a_row=not packed)
        self._files: dict[str, IO[bytes]] = {}
        self._open = ExitStack()
        self._pieces = 0
        self.facts = SplitFacts()

    def __enter__(self) -> SplitWriter:
        for name in _ARRAYS:
            file = _file(self._folder, self._split, name).open("wb")
            self._files[name] = self._open.enter_context(file)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            for window in self._packer.finish():
                self._write(window)
            self.facts.shortened, self.facts.dropped = self._packer.shortened, self._packer.dropped
        self._open.close()

    def add(self, batch: EncodedBatch) -> None:
        """The next documents."""
        self._append("tokens", batch.ids)
        self.facts.documents += len(batch.lengths)
        self.facts.tokens += len(batch.ids)
        for window in self._packer.add(batch.lengths, batch.prompts):
            self._write(window)

    def _write(self, window: Packing) -> None:
        self._append("starts", window.starts)
        self._append("lengths", window.lengths)
        self._append("prompts", window.prompts)
        self._append("row-ends", window.row_ends + self._pieces)
        self._pieces += len(window.starts)
        self.facts.rows += len(window.row_ends)
        self.facts.packed_tokens += int(window.lengths.sum())

    def _append(self, name: str, values: NDArray[np.generic]) -> None:
        self._files[name].write(np.ascontiguousarray(values, dtype=_ARRAYS[name]).data)


def read_split(folder: Path, split: Split) -> tuple[NDArray[np.uint32], Packing]:
    """(all tokens, the rows) of a split that has rows; no byte is read before it is used."""
    arrays = {
        name: np.memmap(_file(folder, split, name), dtype=kind, mode="r") for name, kind in _ARRAYS.items()
    }
    tokens = arrays.pop("tokens")
    return tokens, Packing(arrays["starts"], arrays["lengths"], arrays["prompts"], arrays["row-ends"])


def _file(folder: Path, split: Split, name: str) -> Path:
    return folder / f"{split}-{name}.bin"
