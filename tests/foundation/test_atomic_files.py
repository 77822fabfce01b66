"""Folders that appear whole, and show that they are being worked on."""

from __future__ import annotations

from pathlib import Path

import pytest

from opendllm.core.foundation import atomic_files


def test_a_folder_that_is_read_once_more_and_synced_grows_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By which a watchdog, of whatever process, knows that a save goes on; what appears has nothing of it."""
    sizes: list[int] = []
    sync = atomic_files._sync

    def watched(path: Path) -> None:
        signs = atomic_files.staging_folder_of(tmp_path / "step") / atomic_files.SIGNS_FILE
        if signs.exists():
            sizes.append(signs.stat().st_size)
        sync(path)

    monkeypatch.setattr(atomic_files, "PIECE", 4)
    monkeypatch.setattr(atomic_files, "_sync", watched)
    with atomic_files.whole_folder(tmp_path / "step") as folder:
        (folder / "weights").write_bytes(b"x" * 40)
        (folder / "more").write_bytes(b"")
    assert sizes[0] == 40 // 4
    assert sizes[-1] > sizes[1]
    assert {path.name for path in (tmp_path / "step").iterdir()} == {"weights", "more", "checksums.json"}
    assert atomic_files.integrity_error(tmp_path / "step") is None
