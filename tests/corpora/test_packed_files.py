"""Packed files are told by what they hold, and damage in them by name."""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from opendllm.core.foundation.json_lines import json_lines
from opendllm.core.foundation.packed_files import read_unpacked
from opendllm.plugins.corpora import TextFilesOptions
from opendllm.plugins.corpora.text_files import TextFiles
from opendllm.registries.errors import UserError


def zstd(content: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(content)


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstd,
}
PACKED = pytest.mark.parametrize("packer", [name for name in PACKERS if name != "plain"])
EVERY = pytest.mark.parametrize("packer", PACKERS)
LINES = "".join(
    f'{{"text": "naïve {number} {number * 7919 % 10007}"}}\n' for number in range(20_000)
).encode()


@EVERY
@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_json_lines_are_unpacked_whatever_the_file_is_called(tmp_path: Path, packer: str, name: str) -> None:
    (tmp_path / name).write_bytes(PACKERS[packer](LINES))
    found = list(json_lines(tmp_path / name))
    assert len(found) == 20_000
    assert all(line.issue is None for line in found)
    assert found[-1].content["text"].startswith("naïve 19999 ")


@EVERY
def test_text_files_are_unpacked(tmp_path: Path, packer: str) -> None:
    path = tmp_path / "text"
    path.write_bytes(PACKERS[packer]("one\r\ntwo ☕\n".encode()))
    [found] = TextFiles(TextFilesOptions(train=str(path), held_out=str(path))).documents("train")
    assert found.text == "one\r\ntwo ☕\n"


@PACKED
def test_packed_parts_one_after_the_other_are_one_file(tmp_path: Path, packer: str) -> None:
    pack = PACKERS[packer]
    (tmp_path / "a").write_bytes(pack(LINES) + pack(b"") + pack(b"last\n"))
    assert read_unpacked(tmp_path / "a") == LINES + b"last\n"


@PACKED
@pytest.mark.parametrize("kept", [0.999, 0.5])
def test_a_file_that_is_cut_short_is_named_with_its_line(tmp_path: Path, packer: str, kept: float) -> None:
    packed = PACKERS[packer](LINES)
    (tmp_path / "a").write_bytes(packed[: int(len(packed) * kept)])
    with pytest.raises(UserError, match=rf"{tmp_path}/a:\d+: cannot be read: .") as caught:
        list(json_lines(tmp_path / "a"))
    assert "\n" not in str(caught.value)


@PACKED
def test_a_file_that_is_damaged_within_is_named(tmp_path: Path, packer: str) -> None:
    packed = bytearray(PACKERS[packer](LINES))
    middle = len(packed) // 2
    packed[middle : middle + 40] = bytes(255 - byte for byte in packed[middle : middle + 40])
    (tmp_path / "a").write_bytes(packed)
    with pytest.raises(UserError, match=rf"{tmp_path}/a cannot be read: ."):
        read_unpacked(tmp_path / "a")


def test_frames_with_large_windows_are_read(tmp_path: Path) -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=28, enable_ldm=True)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    (tmp_path / "a").write_bytes(compressor.compress(LINES) + compressor.flush())
    assert read_unpacked(tmp_path / "a") == LINES


def test_a_zip_archive_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"PK\x03\x04rest")
    with pytest.raises(UserError, match=r"a.jsonl is a zip archive: unpack it"):
        list(json_lines(tmp_path / "a.jsonl"))
