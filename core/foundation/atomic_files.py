"""Files and folders that a reader sees whole or not at all, with checksums. Imports no torch."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

CHECKSUMS_FILE = "checksums.json"
SIGNS_FILE = ".signs-of-life"
"""Grows while what is to be written into a folder is brought together, and while the folder is read once more
and reaches the disk: the work goes on."""
PIECE = 1 << 24
"""Bytes that are read at once."""


def write_json(path: Path, content: Any) -> None:
    """Write JSON so that a reader sees the old file or the new one, never a part.

    Numbers that are not finite become null.
    """
    text = json.dumps(_finite(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_text(path, text)


def write_text(path: Path, text: str) -> None:
    """Write a text file so that a reader sees the old one or the new one, never a part.

    Raises:
        OSError: it can't be written, which it names; the old one is as it was.
    """
    staging = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with writing(path):
        try:
            with staging.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            staging.replace(path)
        except BaseException:
            with suppress(OSError):
                staging.unlink()
            raise
        _sync(path.parent)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """A block that writes `path`, by that name or at first another one in its folder.

    Raises:
        OSError: of the same kind as in the block, with the path, which a full disk's doesn't have by itself.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None or (error.filename and Path(error.filename).parent != path.parent):
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error


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
    staging = staging_folder_of(target)
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        yield staging
        publish(staging, target)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def staging_folder_of(target: Path) -> Path:
    """Where `target` is written before it is whole; nobody reads names that begin with a dot."""
    return target.with_name(f".{target.name}.partial")


def publish(staging: Path, target: Path, announce: Callable[[str], None] = lambda digest: None) -> None:
    """Let what was written into a staging folder appear at `target`, whole and on disk.

    Args:
        staging: the finished folder; it gets a file of checksums.
        target: must not exist, on the same file system.
        announce: told the folder's `checksums_digest` before `target` can be seen.
    """
    signs = staging / SIGNS_FILE
    paths = [path for path in _files(staging) if path != signs]
    with signs.open("ab", buffering=0) as alive:
        # hashlib lets go of the interpreter's lock: a checkpoint of many shards is read in parallel.
        with ThreadPoolExecutor() as pool:
            digests = list(pool.map(partial(_sha256, alive=alive), paths))
        names = [path.relative_to(staging).as_posix() for path in paths]
        write_json(staging / CHECKSUMS_FILE, dict(zip(names, digests, strict=True)))
        for path in [*paths, staging / CHECKSUMS_FILE]:
            _sync(path)
            alive.write(b".")
    signs.unlink()
    for path in [*(path for path in staging.rglob("*") if path.is_dir()), staging]:
        _sync(path)
    announce(_sha256(staging / CHECKSUMS_FILE))
    staging.rename(target)
    _sync(target.parent)


def give_sign(staging: Path) -> None:
    """Show that what is to be written into a staging folder is being worked on."""
    with (staging / SIGNS_FILE).open("ab") as alive:
        alive.write(b".")


def remove_folder(folder: Path) -> None:
    """Delete a folder that `publish` made; cut short, it leaves nothing that looks like one."""
    hidden = folder.with_name(f".{folder.name}.removed")
    folder.rename(hidden)
    shutil.rmtree(hidden)


def checksums_digest(folder: Path) -> str | None:
    """The digest of a folder's checksum file, which stands for all it lists; None where there is none."""
    path = folder / CHECKSUMS_FILE
    return _sha256(path) if path.is_file() else None


def integrity_error(folder: Path, below: str = "") -> str | None:
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


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _sha256(path: Path, alive: BinaryIO | None = None) -> str:
    """Of a file; a byte is written to `alive` for each piece that is read."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            digest.update(piece)
            if alive is not None:
                alive.write(b".")
    return digest.hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
