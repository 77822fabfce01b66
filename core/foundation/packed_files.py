"""Files as they are, or packed by gzip, bzip2, xz or zstd; told by their first bytes, not by their names."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

from opendllm.registries.errors import UserError, first_line

if TYPE_CHECKING:
    from zstandard import ZstdDecompressionObj

_GZIP, _BZIP2, _XZ, _ZIP = b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"PK\x03\x04"
_ZSTD = b"\x28\xb5\x2f\xfd"
_LARGEST_WINDOW = 1 << 31
"""What `zstd --long=31` writes, as some published dumps are packed."""
_READ_AT_ONCE = 1 << 14

UNREADABLE = (OSError, EOFError, zlib.error, lzma.LZMAError)
"""What reading a file that `open_unpacked` opened may raise."""


@contextmanager
def open_unpacked(path: Path) -> Iterator[IO[bytes]]:
    """The file's bytes, unpacked on the way.

    Raises:
        UserError: it is a zip archive, which holds files and is none.
        OSError: it can't be opened. Reading from it raises one of `UNREADABLE` where it is damaged.
    """
    with path.open("rb") as file:
        start = file.read(max(map(len, (_GZIP, _BZIP2, _XZ, _ZSTD, _ZIP))))
        file.seek(0)
        if start.startswith(_ZIP):
            raise UserError(f"{path} is a zip archive: unpack it, and name the files that it holds")
        with _unpacked(file, start) as unpacked:
            yield unpacked


def read_unpacked(path: Path) -> bytes:
    """All of a file.

    Raises:
        UserError: it can't be read.
    """
    try:
        with open_unpacked(path) as file:
            return file.read()
    except UNREADABLE as error:
        raise UserError(f"{path} cannot be read: {why_unreadable(error)}") from error


def why_unreadable(error: Exception) -> str:
    """What one of `UNREADABLE` says, without the file's name."""
    return getattr(error, "strerror", None) or first_line(error)


def _unpacked(file: IO[bytes], start: bytes) -> IO[bytes]:
    if start.startswith(_GZIP):
        return cast("IO[bytes]", gzip.GzipFile(fileobj=file))
    if start.startswith(_BZIP2):
        return bz2.BZ2File(file)
    if start.startswith(_XZ):
        return lzma.LZMAFile(file)
    if start.startswith(_ZSTD):
        return io.BufferedReader(_ZstdFile(file), _READ_AT_ONCE)
    return file


class _ZstdFile(io.RawIOBase):
    """zstd's frames, one after the other; the library's own reader takes a file cut short for whole."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._frame: ZstdDecompressionObj | None = None
        self._waiting = memoryview(b"")  # unpacked, to be handed out
        self._packed = b""  # read, to be unpacked

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._waiting and self._more():
            pass
        given = self._waiting[: len(buffer)]
        buffer[: len(given)] = given
        self._waiting = self._waiting[len(given) :]
        return len(given)

    def _more(self) -> bool:
        """Unpack the next piece; False at the end."""
        import zstandard

        self._packed = self._packed or self._file.read(_READ_AT_ONCE)
        if not self._packed:
            if self._frame is not None:
                raise EOFError("it ends within a zstd frame")
            return False
        if self._frame is None:
            self._frame = zstandard.ZstdDecompressor(max_window_size=_LARGEST_WINDOW).decompressobj()
        try:
            self._waiting = memoryview(self._frame.decompress(self._packed))
        except zstandard.ZstdError as error:
            raise OSError(first_line(error)) from error
        self._packed = self._frame.unused_data
        if self._frame.eof:
            self._frame = None
        return True
