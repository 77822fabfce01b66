"""The main job in small, as a user runs it: every variant trained, evaluated, and laid side by side."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from opendllm.core import load
from opendllm.core.foundation.decoding_traces import read_trace

pytestmark = pytest.mark.slow
RECIPES = {
    "open-dcoder": ("open-dcoder", "open-dcoder", "p2"),
    "llada": ("llada", "llada", "low-confidence"),
    "dream": ("dream", "dream", "entropy"),
    "autoregressive": ("open-dcoder", "ar", "low-confidence"),
    "untrained": ("open-dcoder", None, "p2"),
}
"""Backbone, objective and sampler of each variant."""
VARIANTS = list(RECIPES)
BENCHMARKS = ["perplexity", "stdlib-infilling"]


def platform(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "opendllm.core", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def run_folder(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quickstart")
    done = platform(
        "run",
        str(repository / "experiments" / "quickstart.yaml"),
        *("--set", "train.steps=60", "--set", "train.held_out.every=null", "--limit", "24"),
        *("--set", "evaluate.1.benchmark.options.fixed_lengths=[8]"),
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    return folder / "runs" / "quickstart"


def results(folder: Path, variant: str, benchmark: str) -> dict[str, dict[str, dict[str, float]]]:
    content: dict[str, dict[str, dict[str, float]]] = json.loads(
        (folder / variant / "results" / f"{benchmark}.json").read_text()
    )
    return content


def test_every_variant_is_clearly_less_perplexed_than_the_untrained_model(run_folder: Path) -> None:
    untrained = results(run_folder, "untrained", "perplexity")["metrics"]["perplexity"]["low"]
    for variant in VARIANTS[:-1]:
        trained = results(run_folder, variant, "perplexity")["metrics"]["perplexity"]["high"]
        assert trained < 0.5 * untrained, variant


def test_trained_models_find_significantly_more_hidden_tokens_than_the_untrained_one(
    run_folder: Path,
) -> None:
    untrained = results(run_folder, "untrained", "stdlib-infilling")["metrics"]["token_accuracy_oracle"]
    for variant in VARIANTS[:3]:
        trained = results(run_folder, variant, "stdlib-infilling")["metrics"]["token_accuracy_oracle"]
        assert trained["low"] > untrained["high"], variant


def test_the_run_folder_holds_what_it_should(run_folder: Path) -> None:
    for name in ("manifest.resolved.yaml", "report.html", "report.md", "results.json"):
        assert (run_folder / name).stat().st_size > 0
    for variant in VARIANTS:
        step = 0 if variant == "untrained" else 60
        checkpoint = run_folder / variant / "checkpoints" / f"step-{step}"
        assert (checkpoint / "model" / "model.safetensors").is_file()
        provenance = json.loads((checkpoint / "provenance.json").read_text())
        assert provenance["manifest"]["name"] == "quickstart"
        assert provenance["plugins"]["backbones/" + provenance["manifest"]["model"]["backbone"]["name"]]


def test_the_report_lays_every_variant_beside_the_others(run_folder: Path) -> None:
    """By its name, with its own parts and its own scores."""
    report = json.loads((run_folder / "results.json").read_text(), parse_constant=pytest.fail)
    assert list(report["variants"]) == VARIANTS
    for variant, shown in report["variants"].items():
        identity = shown["identity"]
        assert (identity["backbone"], identity["objective"], identity["sampler"]) == RECIPES[variant]
        assert list(shown["benchmarks"]) == BENCHMARKS
        for benchmark, scores in shown["benchmarks"].items():
            assert scores["metrics"] == results(run_folder, variant, benchmark)["metrics"]
    markdown = (run_folder / "report.md").read_text()
    for heading in ("## Variants", *(f"### {benchmark}" for benchmark in BENCHMARKS)):
        table = markdown.split(f"\n{heading}\n\n", 1)[1].split("\n\n", 1)[0].splitlines()
        assert [row.split("|")[1].strip() for row in table[2:]] == VARIANTS, heading


def test_every_variant_keeps_how_one_of_its_answers_came_to_be(run_folder: Path) -> None:
    for variant in VARIANTS:
        trace = read_trace(run_folder / variant / "traces" / "stdlib-infilling.json")
        lines = (run_folder / variant / "samples" / "stdlib-infilling.jsonl").read_text().splitlines()
        answers = {(each["task_id"], each["setting"]): each for each in map(json.loads, lines)}
        answer = answers[trace.task_id, trace.setting]
        assert (trace.text, trace.forward_passes) == (answer["text"], answer["forward_passes"])
        assert trace.sampler == RECIPES[variant][2]
        assert sum(len(step.commit) for step in trace.row.steps) >= len(trace.row.editable) == 8


def test_running_again_changes_no_result_and_no_checkpoint(run_folder: Path, repository: Path) -> None:
    kept = ("samples/*.jsonl", "traces/*.json", "checkpoints/*/checksums.json")
    files = [path for pattern in kept for path in run_folder.glob(f"*/{pattern}")]
    before = {path: path.read_bytes() for path in files}
    scores = {path: json.loads(path.read_text()) for path in run_folder.glob("*/results/*.json")}
    again = platform(
        "run",
        str(repository / "experiments" / "quickstart.yaml"),
        *("--set", "train.steps=60", "--set", "train.held_out.every=null", "--limit", "24"),
        *("--set", "evaluate.1.benchmark.options.fixed_lengths=[8]"),
        cwd=run_folder.parent.parent,
    )
    assert again.returncode == 0, again.stderr
    assert {path: path.read_bytes() for path in files} == before
    assert {path: json.loads(path.read_text()) for path in scores} == scores


def test_a_checkpoint_completes_and_infills(run_folder: Path) -> None:
    arguments = ("generate", "--checkpoint", str(run_folder / "open-dcoder"), "--prompt", "def add(a, b):")
    done = platform(*arguments, "-o", "max_new_tokens=12", cwd=run_folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip("\n")
    infilled = platform(
        *arguments, "--suffix", "\n    return c", "--json", "-o", "max_new_tokens=6", cwd=run_folder
    )
    assert infilled.returncode == 0, infilled.stderr
    assert json.loads(infilled.stdout)["suffix"] == "\n    return c"


def test_the_command_line_writes_what_the_python_api_writes(run_folder: Path) -> None:
    lm = load(run_folder / "llada")
    (text,) = lm.generate(["import os\n"], max_new_tokens=8)
    arguments = (
        "--checkpoint",
        str(run_folder / "llada"),
        "--prompt",
        "import os\n",
        "-o",
        "max_new_tokens=8",
    )
    done = platform("generate", *arguments, cwd=run_folder)
    assert done.stdout == text + "\n"
    ((score, error),) = lm.score(["import os\nimport sys\n"], draws=16)
    assert score < 0
    assert error > 0
