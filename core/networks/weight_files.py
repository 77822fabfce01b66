"""Which tensor of a Hugging Face folder lies in which safetensors file, read from headers; no torch."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from opendllm.core.foundation.notices import warn_once
from opendllm.registries.errors import UserError

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that has not been read.

    Attributes:
        path: the file it is in.
        dtype: as safetensors writes it, `BF16` say.
        shape: of the tensor.
        bytes: it takes in the file.
    """

    path: Path
    dtype: str
    shape: tuple[int, ...]
    bytes: int

    @property
    def numbers(self) -> int:
        """How many it holds."""
        return math.prod(self.shape)


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """The tensors of a checkpoint, each in the file that holds it for every reader, file by file.

    A whole model.safetensors is taken before an index, as transformers does. Where there is an index,
    each key is in the file that it names, whatever other files hold under it.

    Raises:
        UserError: there are no weights; the index is damaged, or names a file that is missing or lacks the
            key, or leaves open which of two files holds one; a file is damaged or cut short.
    """
    index = folder / INDEX_FILE
    if (folder / SINGLE_FILE).is_file():
        if index.is_file():
            _warn_of_unread(index)
        return _headers(folder / SINGLE_FILE)
    if not index.is_file():
        raise _missing(folder, SINGLE_FILE)
    weight_map = _weight_map(index)
    found: dict[str, StoredTensor] = {}
    for name in sorted(set(weight_map.values())):
        if not (folder / name).is_file():
            raise _missing(folder, name)
        there = _headers(folder / name)
        for key in (key for key, file in weight_map.items() if file == name):
            if key not in there:
                raise UserError(f"{index} says that {key} is in {name}, and it isn't: fetch both anew")
        for key, tensor in there.items():
            if weight_map.get(key, name) != name:
                continue
            if key in found:
                raise UserError(f"{found[key].path} and {tensor.path} both hold {key}, which {index} lacks")
            found[key] = tensor
    return found


def whole_files(folder: Path, stored: dict[str, StoredTensor]) -> list[Path] | None:
    """The files that hold these tensors and no others, with their index; None where they hold others."""
    files = sorted({tensor.path for tensor in stored.values()})
    if sum(len(_headers(path)) for path in files) != len(stored):
        return None
    return files if files == [folder / SINGLE_FILE] else [*files, folder / INDEX_FILE]


def _missing(folder: Path, name: str) -> UserError:
    found = ", ".join(sorted(path.name for path in folder.glob("*.bin"))) or "none"
    return UserError(f"{folder} has no {name}; only safetensors are read (pickled weights there: {found})")


def _warn_of_unread(index: Path) -> None:
    """A whole file and shards beside it may hold different weights: say which are read."""
    if set(_weight_map(index).values()) != {SINGLE_FILE}:
        warn_once(
            f"{index.parent} holds {SINGLE_FILE} and {INDEX_FILE} with other files: {SINGLE_FILE} is read, "
            f"as transformers does; delete the one that is not meant"
        )


def _weight_map(index: Path) -> dict[str, str]:
    """From keys to file names."""
    try:
        content = json.loads(index.read_text(encoding="utf-8"), object_pairs_hook=_without_duplicates)
        weight_map = {str(key): Path(name).name for key, name in content["weight_map"].items()}
        outside = next((name for name in content["weight_map"].values() if Path(name).name != name), None)
    except _DuplicateKeyError as error:
        raise UserError(f"{index} names {error}: it must name one file a key") from error
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{index} is damaged: no `weight_map` from keys to files") from error
    if outside is not None:
        raise UserError(f"{index} names {outside!r}, which is outside its folder")
    return weight_map


class _DuplicateKeyError(Exception):
    """A JSON object that says two things of one key."""


def _without_duplicates(pairs: Iterable[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in pairs:
        if found.setdefault(key, value) != value:
            raise _DuplicateKeyError(f"{key} twice, in {found[key]} and in {value}")
    return found


def _headers(path: Path) -> dict[str, StoredTensor]:
    try:
        with safe_open(path, framework="np"):  # checks that the header fits the file
            pass
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} is damaged or cut short: {error}") from error
    return {
        key: StoredTensor(
            path,
            entry["dtype"],
            tuple(entry["shape"]),
            entry["data_offsets"][1] - entry["data_offsets"][0],
        )
        for key, entry in header.items()
        if key != "__metadata__"
    }
