"""Where things are kept between runs, and that nothing fails where there is no such place."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from opendllm.core.foundation.cache_folder import cache_folder
from opendllm.core.foundation.kept_names import _kept_or_read
from opendllm.core.networks.kept_kernels import keep_kernels
from opendllm.core.scoring.program_scores import _memory


def test_a_user_without_a_home_keeps_nothing_and_nothing_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As in a container that is run as a user whom its system doesn't know."""

    def unknown(_user: int) -> pwd.struct_passwd:
        raise KeyError

    for name in ("HOME", "XDG_CACHE_HOME", "TORCHINDUCTOR_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    assert cache_folder() is None
    record = tmp_path / "transformers-1.0.dist-info" / "RECORD"
    record.parent.mkdir()
    record.write_text("")
    names = {frozenset({"torch"}): {"a": {"A"}}}
    assert _kept_or_read(lambda _models: names, tmp_path / "transformers" / "models") == names
    keep_kernels()
    assert "TORCHINDUCTOR_CACHE_DIR" not in os.environ
    assert _memory("script", {}) is None


def test_the_folder_is_the_user_s_and_the_environment_s_word_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    assert cache_folder() == tmp_path / "caches" / "open-dllm"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "open-dllm"
