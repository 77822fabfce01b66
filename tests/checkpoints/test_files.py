"""What a checkpoint's folder says of itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from opendllm.core.checkpoints.files import provenance_of, steps_wanted
from opendllm.registries.errors import UserError


@pytest.mark.parametrize("content", [None, "{", "[1]", "\udc80"], ids=["missing", "cut", "list", "no UTF-8"])
def test_a_provenance_that_cannot_be_read_is_named(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "provenance.json"
    if content is not None:
        path.write_text(content, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(UserError, match=f"^{path} [^\n]+$"):
        provenance_of(tmp_path)
    assert steps_wanted(tmp_path) == 0


def test_one_with_letters_of_any_alphabet_is_read(tmp_path: Path) -> None:
    (tmp_path / "provenance.json").write_bytes('{"manifest": {"name": "ü", "train": {"steps": 7}}}'.encode())
    assert provenance_of(tmp_path)["manifest"]["name"] == "ü"
    assert steps_wanted(tmp_path) == 7
