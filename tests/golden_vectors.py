"""What the published implementations compute on tiny checkpoints, and the folder that it is read from."""

from __future__ import annotations

import functools
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from opendllm.core import load
from opendllm.core.language_model import LanguageModel

VARIABLE = "OPENDLLM_GOLDENS"
COPIES = Path(__file__).parent / "goldens"


@dataclass(frozen=True)
class Vectors:
    """One folder of golden vectors: `expected.json`, and mostly the checkpoint that it speaks of.

    Attributes:
        name: of the folder: `llada`, `dream`, ...
    """

    name: str

    @property
    def folder(self) -> Path:
        """In $OPENDLLM_GOLDENS, by default among the copies in tests/goldens."""
        return _folder() / self.name

    @property
    def expected(self) -> dict[str, Any]:
        """What the published code computed."""
        return _read(self.folder / "expected.json")

    @property
    def model(self) -> LanguageModel:
        """The checkpoint; its mask token and block length are the vectors' where config.json has none."""
        config = _read(self.folder / "config.json")
        has_blocks = bool(config.keys() & {"block_size", "bd_size"})
        return self.with_blocks(None if has_blocks else self.expected.get("block_length"))

    def with_blocks(self, block_length: int | None) -> LanguageModel:
        """The checkpoint, reading blocks of another length."""
        named = "mask_token_id" in _read(self.folder / "config.json")
        return _load(self.folder, None if named else self.expected["mask_token_id"], block_length)


def golden(*names: str) -> pytest.MarkDecorator:
    """Run a test with each of these folders' `vectors`."""
    found = [pytest.param(Vectors(name), id=name, marks=_marks(name)) for name in names]
    return pytest.mark.parametrize("vectors", found)


def golden_entries(section: str, *names: str) -> pytest.MarkDecorator:
    """Run a test with each `entry` of a list in expected.json, and the `vectors` that it is from.

    A list that isn't there fails as an empty entry, not while pytest collects, which would stop all tests.
    """
    found = []
    for name in names:
        entries = [{}] if _lacks(name) else Vectors(name).expected.get(section, [{}])
        for number, entry in enumerate(entries):
            label = entry.get("algorithm") or entry.get("cache")
            test_id = "-".join(str(part) for part in (name, section, number, label) if part is not None)
            found.append(pytest.param(Vectors(name), entry, id=test_id, marks=_marks(name)))
    return pytest.mark.parametrize(("vectors", "entry"), found)


class Entry:
    """One of expected.json's entries, of which a test has to take everything.

    An option or a number that nobody takes would be held by nobody: leaving the block complains.
    """

    def __init__(self, content: dict[str, Any]) -> None:
        self._left = {key: value for key, value in content.items() if key != "note"}

    def __contains__(self, key: str) -> bool:
        return key in self._left

    def take(self, key: str) -> Any:
        """The value of `key`, once."""
        return self._left.pop(key)

    def __enter__(self) -> Entry:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            assert not self._left, f"no test holds {sorted(self._left)}"


def _marks(name: str) -> list[pytest.MarkDecorator]:
    absent = [pytest.mark.skip(reason=f"no {name} in {_folder()}")] if _lacks(name) else []
    return [pytest.mark.golden, *absent]


def _lacks(name: str) -> bool:
    """Other vectors may be of some families only; a copy that is missing is a mistake."""
    return VARIABLE in os.environ and not (_folder() / name).is_dir()


@functools.cache
def _folder() -> Path:
    folder = Path(os.environ.get(VARIABLE, COPIES)).absolute()
    if not any(folder.glob("*/expected.json")):
        raise pytest.UsageError(f"{VARIABLE}: {folder} holds no folder with an expected.json")
    return folder


@functools.cache
def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


@functools.cache
def _load(folder: Path, mask_token_id: int | None, block_length: int | None) -> LanguageModel:
    return load(folder, mask_token_id=mask_token_id, block_length=block_length, device="cpu")
