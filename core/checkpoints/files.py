"""The files of a checkpoint: how a folder is found, and when it is whole. Imports no torch."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from opendllm.registries.errors import UserError

MODEL_FOLDER = "model"
ENGINE_FOLDER = "deepspeed"
PROVENANCE_FILE = "provenance.json"
CHECKSUMS_FILE = "checksums.json"
VARIANT_FILE = "variant.json"
CHECKPOINTS_FOLDER = "checkpoints"
_STEP_NAME = re.compile(r"step-(\d+)")


def write_json(path: Path, content: Any) -> None:
    """Write JSON so that a reader sees the old file or the new one, never a part.

    Numbers that are not finite become null.
    """
    text = json.dumps(_finite(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_text(path, text)


def write_text(path: Path, text: str) -> None:
    """Write a text file so that a reader sees the old one or the new one, never a part."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with aside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
    _sync(path.parent)


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A folder that appears at `target` only once its writer is done, with checksums of every file.

    Yields:
        The folder to write into. It goes away where writing fails.
    """
    aside = aside_of(target)
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        yield aside
        publish(aside, target)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def aside_of(target: Path) -> Path:
    """Where `target` is written before it is whole; nobody reads names that begin with a dot."""
    return target.with_name(f".{target.name}.partial")


def publish(aside: Path, target: Path, announce: Callable[[str], None] = lambda digest: None) -> None:
    """Let what was written aside appear at `target`, whole and on disk.

    Args:
        aside: the finished folder; it gets a file of checksums.
        target: must not exist, on the same file system.
        announce: told the `seal` before `target` can be seen.
    """
    paths = _files(aside)
    # hashlib lets go of the interpreter's lock: a checkpoint of many shards is read in parallel.
    with ThreadPoolExecutor() as pool:
        digests = list(pool.map(_sha256, paths))
    names = [path.relative_to(aside).as_posix() for path in paths]
    write_json(aside / CHECKSUMS_FILE, dict(zip(names, digests, strict=True)))
    for path in [*_files(aside), *(path for path in aside.rglob("*") if path.is_dir()), aside]:
        _sync(path)
    announce(_sha256(aside / CHECKSUMS_FILE))
    aside.rename(target)
    _sync(target.parent)


def remove_folder(folder: Path) -> None:
    """Delete a folder that `publish` made; cut short, it leaves nothing that looks like one."""
    aside = folder.with_name(f".{folder.name}.removed")
    folder.rename(aside)
    shutil.rmtree(aside)


def seal(folder: Path) -> str | None:
    """The digest of a folder's checksum file, which stands for all it lists; None where there is none."""
    path = folder / CHECKSUMS_FILE
    return _sha256(path) if path.is_file() else None


def damage(folder: Path, below: str = "") -> str | None:
    """What is wrong with a folder that `publish` made, in a few words; None where it is whole.

    Args:
        folder: with its checksum file.
        below: only look at files whose names begin so.
    """
    try:
        checksums: dict[str, str] = json.loads((folder / CHECKSUMS_FILE).read_text())
    except (OSError, ValueError):
        return f"{CHECKSUMS_FILE} is missing or unreadable"
    found = {path.relative_to(folder).as_posix() for path in _files(folder)} - {CHECKSUMS_FILE}
    for name in sorted(checksums.keys() | found):
        if not name.startswith(below):
            continue
        if name not in found:
            return f"{name} is missing"
        if name not in checksums:
            return f"{name} was added since it was written"
        if _sha256(folder / name) != checksums[name]:
            return f"{name} has changed since it was written"
    return None


def steps(variant_folder: Path) -> list[tuple[int, Path]]:
    """(step, folder) of every checkpoint of a variant, oldest first."""
    found = []
    for folder in (variant_folder / CHECKPOINTS_FOLDER).glob("step-*"):
        match = _STEP_NAME.fullmatch(folder.name)
        if match and folder.is_dir():
            found.append((int(match.group(1)), folder))
    return sorted(found)


def model_folder(path: Path) -> Path:
    """The Hugging Face folder that `path` means.

    Args:
        path: such a folder, a checkpoint's, or a variant's folder of a run (its last checkpoint).

    Raises:
        UserError: there is no model at `path`.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist: give a run's variant, a checkpoint or a model folder")
    if (path / "config.json").is_file():
        return path
    if (path / MODEL_FOLDER / "config.json").is_file():
        return path / MODEL_FOLDER
    if (path / VARIANT_FILE).is_file() or steps(path):
        found = steps(path) or steps(path.parent / _trained_in(path))
        if found:
            return found[-1][1] / MODEL_FOLDER
        raise UserError(f"{path} holds no checkpoint yet: run its manifest first")
    variants = sorted(file.parent.name for file in path.glob(f"*/{VARIANT_FILE}"))
    if variants:
        raise UserError(f"{path} is a whole run: name one of its variants, as in {path / variants[0]}")
    raise UserError(f"{path} holds no config.json, so no model: is the folder complete?")


def _trained_in(variant_folder: Path) -> str:
    try:
        return str(json.loads((variant_folder / VARIANT_FILE).read_text())["trained_in"])
    except (ValueError, KeyError) as error:
        raise UserError(f"{variant_folder / VARIANT_FILE} is damaged: run the manifest again") from error


def parameter_count(folder: Path) -> int:
    """How many numbers the safetensors files of a model folder hold, read from their headers."""
    total = 0
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        shapes = [entry["shape"] for name, entry in header.items() if name != "__metadata__"]
        total += sum(math.prod(shape) for shape in shapes)
    return total


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
