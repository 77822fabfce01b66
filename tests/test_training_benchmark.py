"""benchmarks/training.py in small: that it runs, and what it prints."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TINY = [
    "--preset",
    "nano",
    "--width",
    "32",
    "--layers",
    "1",
    "--intermediate",
    "64",
    "--rounds",
    "1",
    "--steps",
    "1",
]


@pytest.mark.slow
def test_it_prints_speed_utilisation_memory_and_first_step_beside_the_forecast(repository: Path) -> None:
    command = [sys.executable, str(repository / "benchmarks" / "training.py"), "--device", "cpu", *TINY]
    done = subprocess.run(
        [*command, "--ways", "open-dllm", "--ranks", "2", "--zero", "3"],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    figures = r"\s+([\d,]+)\s+([\d.]+)%\s+([\d,]+) MiB"
    for line in (
        "open-dllm" + figures + r"  first step [\d.]+ s",
        "plan" + figures,
        r"2" + figures + r"\s+100\.0%",
    ):
        assert re.search(line, done.stdout), done.stdout
