"""What a run writes down of its checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest

from opendllm.core.checkpoints.ledger import LEDGER_FILE, Entry, enter, entries
from opendllm.registries.errors import UserError


def checkpoint(variant: Path, step: int) -> Path:
    folder = variant / "checkpoints" / f"step-{step}"
    folder.mkdir(parents=True)
    return folder


def test_what_is_written_down_is_read_and_what_is_gone_forgotten(tmp_path: Path) -> None:
    for step in (1, 2, 10):
        enter(tmp_path, step, Entry(f"digest-{step}", 0.5 * step))
        folder = checkpoint(tmp_path, step)
    assert entries(tmp_path) == {step: Entry(f"digest-{step}", 0.5 * step) for step in (1, 2, 10)}
    folder.rmdir()
    enter(tmp_path, 11, Entry("digest-11", None))
    assert entries(tmp_path) == {
        1: Entry("digest-1", 0.5),
        2: Entry("digest-2", 1.0),
        11: Entry("digest-11", None),
    }


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    (tmp_path / LEDGER_FILE).write_text('{"1": {"seal": "a"}}')
    with pytest.raises(UserError, match=r"checkpoints\.json is damaged"):
        entries(tmp_path)
