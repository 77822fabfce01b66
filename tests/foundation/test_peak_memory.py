"""The peak of a stretch of work."""

from __future__ import annotations

import sys

import pytest

from opendllm.core.foundation.peak_memory import peak_memory_bytes, restart_peak_memory

SIZE = 300_000_000


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the peak counts from the process's start")
def test_what_was_freed_before_doesnt_count() -> None:
    memory = bytearray(SIZE)
    memory[::4096] = b"x" * len(memory[::4096])
    with_it = peak_memory_bytes()
    del memory
    restart_peak_memory()
    assert with_it - peak_memory_bytes() > SIZE * 0.8
