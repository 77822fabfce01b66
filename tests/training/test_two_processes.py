"""Two processes under torch's launcher: the same losses as one, and one report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

MANIFEST = """
name: two
model: {backbone: {name: llada}}
data:
  corpus: {name: text-files, options: {train: texts/a*.py, held_out: texts/held*.py}}
  tokenizer: {train: {vocab_size: 280}}
  sequence_length: 32
train:
  objective: {name: llada}
  steps: 4
  global_batch_size: 8
  held_out: {rows: 2}
  deepspeed: {zero_optimization: {stage: 1}}
evaluate: [{benchmark: {name: perplexity}}]
"""


def losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "default" / "train.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.slow
def test_two_processes_compute_what_one_does_and_report_once(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    for number in range(12):
        (tmp_path / "texts" / f"a{number}.py").write_text(f"def f{number}(x):\n    return x + {number}\n" * 4)
    (tmp_path / "texts" / "held.py").write_text("def g(x):\n    return x * 2\n" * 4)
    (tmp_path / "texts" / "held_tiny.py").write_text("x")
    (tmp_path / "two.yaml").write_text(MANIFEST)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for prefix, output in ((launcher, "both"), ([], "alone")):
        done = subprocess.run(
            [sys.executable, *prefix, "-m", "opendllm.core", "run", "two.yaml", "--set", f"output={output}"],
            cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.count("report: ") == 1
    assert losses(tmp_path / "both") == pytest.approx(losses(tmp_path / "alone"), rel=1e-5)
    answers = (tmp_path / "both" / "default" / "samples" / "perplexity.jsonl").read_text().splitlines()
    assert len(answers) == 2
