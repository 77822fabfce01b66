"""The seed table's whole path: real generation, code that runs, published figures, with a tiny checkpoint."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from .conftest import Platform

NAMES = ("humaneval", "humaneval-plus", "mbpp", "mbpp-plus", "humaneval-infilling", "santacoder-fim")
HIDDEN_LINE = {
    "name": "add.json-L1",
    "language": "py",
    "prompt": "def add(a, b):",
    "suffix": "\n",
    "canonical_solution": "    return a + b",
}
ENTRIES = (*NAMES, "humaneval-infilling", "santacoder-fim")
LABELS = (*NAMES, "humaneval-infilling-averaged", "santacoder-fim-averaged")
VARIANT = "open-dcoder-0.5b-ran"


@pytest.mark.slow
def test_it_runs_as_it_is_on_a_local_checkpoint(
    repository: Path, finished: Path, platform: Platform, tmp_path: Path
) -> None:
    shutil.copytree(repository / "tests" / "benchmarks" / "problems", tmp_path, dirs_exist_ok=True)
    (tmp_path / "santacoder-fim.jsonl").write_text(json.dumps(HIDDEN_LINE))
    settings = {
        "output": "out",
        "device": "cpu",
        "isolation": "rlimits",
        "model.backbone.options.pretrained": finished / "runs" / "tiny" / "trained",
        "generate.steps": 2,
        "generate.max_new_tokens": 8,
        **{f"evaluate.{n}.benchmark.options.problems": f"{name}.jsonl" for n, name in enumerate(ENTRIES)},
    }
    common = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    run = [
        "run",
        repository / "experiments" / "seed-table.yaml",
        "--limit",
        "1",
        "--variant",
        VARIANT,
        *common,
    ]
    samples, results = tmp_path / "out" / VARIANT / "samples", tmp_path / "out" / VARIANT / "results"

    forbidden = ("--set", "allow_code_execution=false")
    written = platform(*run, *forbidden, cwd=tmp_path)
    assert written.returncode == 0, written.stderr
    assert {path.stem for path in results.iterdir()} == {"santacoder-fim", "santacoder-fim-averaged"}
    assert written.stdout.count("written but not scored") == 6
    before = {path.name: path.read_bytes() for path in samples.glob("*.jsonl")}
    assert set(before) == {f"{label}.jsonl" for label in LABELS}
    assert before["humaneval.jsonl"].count(b"\n") == 10

    command = next(line for line in written.stdout.splitlines() if ": humaneval: " in line)
    scored = platform(*command.split("platform ")[1].split(), cwd=tmp_path)
    assert scored.returncode == 0, scored.stderr
    result = json.loads((results / "humaneval.json").read_text())
    assert set(result["per_task"]) == {"HumanEval/0"}
    assert {"pass@1", "pass@10", "empty", "truncated", "unparsable"} <= set(result["metrics"])
    assert result["settings"]["decoder"]["top_k"] == 200

    done = platform(*run, *forbidden, "--allow-code-execution", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {path.stem for path in results.iterdir()} == set(LABELS)
    assert {path.name: path.read_bytes() for path in samples.glob("*.jsonl")} == before
    report = (tmp_path / "out" / "report.md").read_text()
    for words in ("Open-dCoder 0.5B published", "0.208", "Gemini Diffusion published", "arXiv:2506.17298"):
        assert words in report
