"""benchmarks/training.py in small: that it runs, what it prints, what it refuses, and its arithmetic."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TINY = ["--preset", "nano", "--width", "32", "--layers", "1", "--intermediate", "64", "--rounds", "1"]


@pytest.fixture
def benchmark(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Its modules."""
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    return importlib.import_module


@pytest.mark.slow
def test_it_prints_speed_utilisation_memory_and_first_step_beside_the_forecast(repository: Path) -> None:
    command = [sys.executable, str(repository / "benchmarks" / "training.py"), "--device", "cpu", *TINY]
    done = subprocess.run(
        [*command, "--steps", "1", "--ways", "open-dllm", "--ranks", "1", "2", "--zero", "3"],
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
        r"\n1" + figures + r"\s+100\.0%",
        r"\n2" + figures + r"\s+[\d.]+%",
    ):
        assert re.search(line, done.stdout), done.stdout


def case_of(benchmark: Any, **sizes: Any) -> Any:
    cases = benchmark("training_cases")
    return cases.Case(**{**cases.PRESETS["nano"], **sizes}, device="cpu", compile=False)


def test_useful_operations_are_those_of_real_tokens_in_their_documents(benchmark: Any) -> None:
    """By hand: 6 a weight and token; attention 12 a layer, width and token seen; half of the head."""
    case = case_of(benchmark, width=32, layers=2, intermediate=64, heads=4, key_value_heads=2, vocabulary=100)
    _, ends = case.documents()
    lengths = [int(end - start) for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    seen = sum(length**2 for length in lengths) / sum(lengths)
    weights = 2 * (32 * 32 + 2 * 32 * 16 + 32 * 32 + 3 * 32 * 64) + 5 * 32
    wanted = 6 * weights + 12 * 2 * 32 * seen + 6 * 0.5 * 32 * 100
    assert case.useful_flops_per_token() == pytest.approx(wanted, rel=1e-6)


def test_a_reports_figures_are_those_of_the_answers(
    benchmark: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    reports, case = benchmark("training_report"), case_of(benchmark)
    answers = [(1000, 2.0, 3 << 20, 7.5), (1000, 1.0, 4 << 20, 7.5), (1000, 4.0, 2 << 20, 7.5)]
    peak = 500 * case.useful_flops_per_token() / 0.25
    reports.report(case, {"open-dllm": answers}, peak)
    line = capsys.readouterr().out.splitlines()[1]
    assert line.split() == ["open-dllm", "500", "25.0%", "4", "MiB", "first", "step", "7.5", "s"]
    twice = [(1000, 1.25, 1 << 20, 9.0)]
    reports.report_scaling(case, [1, 2], peak, answers, lambda several: {"open-dllm": twice * several.ranks})
    one, two = capsys.readouterr().out.splitlines()[1:]
    assert one.split()[:6] == ["1", "500", "25.0%", "4", "MiB", "100.0%"]
    assert two.split()[:6] == ["2", "800", "20.0%", "1", "MiB", "80.0%"]
    reports.report_scaling(case, [2], peak, [], lambda several: {"open-dllm": twice})
    assert capsys.readouterr().out.splitlines()[1].split()[5] == "-"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--rounds", "0"], "--rounds: 0 is less than 1"),
        (["--steps", "0"], "--steps: 0 is less than 1"),
        (["--rows", "0"], "--rows: 0 is less than 1"),
        (["--ranks", "1", "0"], "--ranks: 0 is less than 1"),
        (["--lora", "-1"], "--lora: -1 is less than 1"),
        (["--width", "30"], "--width 30 is not 4 heads of an even size"),
        (["--heads", "3", "--width", "96"], "--heads 3 can't share 2 --key-value-heads"),
        (["--length", "16"], "--shortest 16 documents leave nothing to draw below --length 16"),
        (["--vocabulary", "1"], "--vocabulary 1 has no room"),
        (["--ways", "padded", "--ranks", "2"], "--ranks is for --ways open-dllm"),
    ],
)
def test_what_can_not_be_measured_is_refused_in_a_line(
    benchmark: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    given: list[str],
    said: str,
) -> None:
    monkeypatch.setattr(sys, "argv", ["training.py", "--preset", "nano", "--device", "cpu", *given])
    with pytest.raises(SystemExit, match="2"):
        benchmark("training").main()
    assert said in capsys.readouterr().err.splitlines()[-1]
