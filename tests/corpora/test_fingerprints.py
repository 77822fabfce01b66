"""Which bytes a fingerprint sees."""

from __future__ import annotations

from pathlib import Path

import pytest

from opendllm.core.foundation.fingerprints import content_digest
from opendllm.core.foundation.globs import matching_files

MIB = 1 << 20


def digest(folder: Path, whole_bytes: int) -> str:
    return content_digest(matching_files(str(folder / "*")), None, whole_bytes)


@pytest.mark.parametrize("place", [0, 5 * MIB + 17, 12 * MIB - 1])
def test_every_byte_counts_up_to_the_limit(tmp_path: Path, place: int) -> None:
    content = bytearray(12 * MIB)
    (tmp_path / "a").write_bytes(content)
    before = digest(tmp_path, 12 * MIB)
    content[place] = 1
    (tmp_path / "a").write_bytes(content)
    assert digest(tmp_path, 12 * MIB) != before


def test_beyond_it_sizes_and_evenly_spread_blocks_do(tmp_path: Path) -> None:
    content = bytearray(12 * MIB)
    (tmp_path / "a").write_bytes(content)
    (tmp_path / "b").write_bytes(b"short")
    before = digest(tmp_path, 4 * MIB)
    seen = []
    for place in range(MIB // 2, 12 * MIB, MIB):
        content[place] = 1
        (tmp_path / "a").write_bytes(content)
        seen.append(digest(tmp_path, 4 * MIB) != before)
        content[place] = 0
    assert seen[0]
    assert seen[-1]
    assert 3 <= sum(seen) <= 6
    (tmp_path / "a").write_bytes(content + b"\0")
    assert digest(tmp_path, 4 * MIB) != before
    (tmp_path / "a").write_bytes(content)
    (tmp_path / "b").write_bytes(b"shore")
    assert digest(tmp_path, 4 * MIB) != before
