"""benchmarks/decoding.py and benchmarks/evaluating.py in small: that they run, and what they print."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def lines_of(script: Path, folder: Path, *arguments: str) -> dict[str, dict[str, object]]:
    """What a benchmark says of each line of its table."""
    file = folder / "figures.json"
    done = subprocess.run(
        [sys.executable, str(script), *arguments, "--json", str(file)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(folder)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = json.loads(file.read_text())["lines"]
    assert all(line["name"] in done.stdout for line in lines)
    return {f"{line['name']} {line['rows']}": line for line in lines}


def test_decoding_prints_the_share_of_the_floor_and_of_equal_tokens(repository: Path, tmp_path: Path) -> None:
    """In bfloat16 beside float32, of several rows, and where a pass commits more than one token."""
    asked = ["--preset", "nano", "--prompt", "8", "--new", "32", "--bf16", "--float32", "--rows", "1", "2"]
    asked += ["--only", "low-confidence, dual", "multi-block, delayed"]
    lines = lines_of(repository / "benchmarks" / "decoding.py", tmp_path, *asked)
    assert [*lines] == [f"{name} {rows}" for name in asked[-2:] for rows in (1, 2)]
    for line in lines.values():
        for share in ("share_of_floor", "equal_to_float32"):
            assert 0 < float(str(line[share])) <= 1
        assert float(str(line["floor_ms_per_pass"])) > 0
    one, two = lines["low-confidence, dual 1"], lines["low-confidence, dual 2"]
    assert one["tokens_per_forward_pass"] == 1
    assert float(str(two["floor_ms_per_pass"])) > float(str(one["floor_ms_per_pass"]))


def test_evaluating_prints_start_up_and_decoding(repository: Path, tmp_path: Path) -> None:
    asked = ["--preset", "nano", "--limit", "2", "--new", "8", "--ways", "dual"]
    [line] = lines_of(repository / "benchmarks" / "evaluating.py", tmp_path, *asked).values()
    parts = line["start_up_parts"]
    assert isinstance(parts, dict)
    assert [*parts][-3:] == ["folder", "weights", "problems"]
    assert sum(parts.values()) == pytest.approx(line["start_up_seconds"])
    assert int(str(line["steps"])) % 8 == 0
