"""A finished run belongs to its data: wherever that lies, and to no other."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

EVALUATE = "evaluate: [{benchmark: {name: perplexity}, likelihood_draws: 2}]\n"
SHORT = ("--set", "train.steps=2", "--set", "train.held_out.every=null")


def contents(folder: Path) -> dict[str, bytes]:
    """Of all that a run wrote but its report and lock."""
    files = [path for path in (folder / "default").rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def perplexity(run: Path) -> Any:
    result = json.loads((run / "default" / "results" / "perplexity.json").read_text())
    return result["metrics"], result["per_task"]


@pytest.fixture
def finished(commands: Any, workspace: Path) -> Path:
    """A workspace with a finished run."""
    with (workspace / "short.yaml").open("a") as file:
        file.write(EVALUATE)
    outcome = commands.run("run", "short.yaml", *SHORT, cwd=workspace)
    assert outcome.codes == [0], outcome.said
    return workspace


def move_texts(workspace: Path) -> None:
    (workspace / "far" / "away").mkdir(parents=True)
    (workspace / "texts").rename(workspace / "far" / "away" / "corpus [2]")
    text = (workspace / "short.yaml").read_text()
    for name in ("a*.py", "held*.py"):
        text = text.replace(f"texts/{name}", f"'far/away/corpus [2]/{name}'")
    (workspace / "short.yaml").write_text(text)


def test_equal_texts_in_another_folder_give_equal_numbers(commands: Any, finished: Path) -> None:
    measured = perplexity(finished / "runs" / "short")
    move_texts(finished)
    outcome = commands.run("run", "short.yaml", *SHORT, "--set", "output=again", cwd=finished)
    assert outcome.codes == [0], outcome.said
    assert perplexity(finished / "again") == measured


def test_a_run_whose_data_was_moved_is_still_finished(commands: Any, finished: Path) -> None:
    run = finished / "runs" / "short"
    kept = {name: content for name, content in contents(run).items() if "checkpoints/" in name}
    measured, answers = perplexity(run), (run / "default" / "samples" / "perplexity.jsonl").read_bytes()
    data = sorted(path.name for path in (run / "data").iterdir())
    move_texts(finished)
    outcome = commands.run("run", "short.yaml", *SHORT, cwd=finished)
    assert outcome.codes == [0], outcome.said
    assert perplexity(run) == measured
    assert (run / "default" / "samples" / "perplexity.jsonl").read_bytes() == answers
    assert {name: content for name, content in contents(run).items() if "checkpoints/" in name} == kept
    assert sorted(path.name for path in (run / "data").iterdir()) == data


def test_the_whole_folder_can_be_moved(commands: Any, finished: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(finished, elsewhere, ignore=shutil.ignore_patterns("elsewhere"))
    before = contents(elsewhere / "runs" / "short")
    outcome = commands.run("run", "short.yaml", *SHORT, "--only", "train", cwd=elsewhere)
    assert outcome.codes == [0], outcome.said
    after = contents(elsewhere / "runs" / "short")
    assert {name: content for name, content in after.items() if "checkpoints/" in name} == {
        name: content for name, content in before.items() if "checkpoints/" in name
    }


@pytest.mark.parametrize("name", ["a3.py", "held.py"])
@pytest.mark.parametrize("stages", [(), ("--only", "train"), ("--only", "evaluate")])
def test_a_changed_text_under_a_finished_run_is_named_and_nothing_is_touched(
    commands: Any, finished: Path, name: str, stages: tuple[str, ...]
) -> None:
    path = finished / "texts" / name
    path.write_text(path.read_text().replace("return", "retorn"))
    before = contents(finished / "runs" / "short")
    outcome = commands.run("run", "short.yaml", *SHORT, *stages, cwd=finished)
    assert outcome.codes == [2]
    assert "data.corpus (text-files) changed" in outcome.said
    assert "--set output=DIR" in outcome.said
    assert "delete" not in outcome.said
    assert contents(finished / "runs" / "short") == before


def test_a_run_goes_on_where_its_data_was_moved_to(commands: Any, workspace: Path) -> None:
    whole = commands.run("run", "short.yaml", "--only", "train", "--set", "output=whole", cwd=workspace)
    assert whole.codes == [0], whole.said
    first = commands.run("run", "short.yaml", "--only", "train", cwd=workspace)
    assert first.codes == [0], first.said
    checkpoints = workspace / "runs" / "short" / "default" / "checkpoints"
    shutil.rmtree(checkpoints / "step-6")
    move_texts(workspace)
    outcome = commands.run("run", "short.yaml", "--only", "train", cwd=workspace)
    assert outcome.codes == [0], outcome.said
    weights = [
        (workspace / run / "default" / "checkpoints" / "step-6" / "model" / "model.safetensors").read_bytes()
        for run in ("whole", "runs/short")
    ]
    assert weights[0] == weights[1]
