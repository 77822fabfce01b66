"""More steps for a run that is there, where they are asked for; never fewer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from opendllm.core.checkpoints.files import steps
from opendllm.core.manifest.train_schema import Train
from opendllm.core.training.settings import learning_rate
from opendllm.core.training.trainer import TrainingRun, train

MakeRun = Callable[..., TrainingRun]
EVALUATED = "\nevaluate:\n  - {benchmark: {name: perplexity}, likelihood_draws: 1}\n"


def log(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss" in line]


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_an_extended_run_goes_on_with_the_same_data_and_noise(make_run: MakeRun, stage: int) -> None:
    """At a constant rate the schedule doesn't tell the totals apart: bit-equal to a run of all the steps."""
    settings: dict[str, Any] = {
        "decay": "constant",
        "deepspeed": {"zero_optimization": {"stage": stage}},
        "checkpoint": {"every": 1, "keep": 1},
    }
    whole = make_run("whole", steps=4, **settings)
    train(whole)
    train(
        make_run(
            "extended",
            steps=2,
            **settings,
        )
    )
    extended = make_run("extended", steps=4, **settings)
    train(extended)
    ours, theirs = (
        load_file(steps(run.folder)[-1][1] / "model" / "model.safetensors") for run in (extended, whole)
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert [line["loss"] for line in log(extended.folder)] == [line["loss"] for line in log(whole.folder)]


def run(commands: Any, workspace: Path, *arguments: str, ranks: int = 1) -> Any:
    return commands.run("run", "short.yaml", *arguments, cwd=workspace, ranks=ranks)


@pytest.mark.slow
def test_more_steps_are_taken_when_asked_and_said_everywhere(commands: Any, workspace: Path) -> None:
    with (workspace / "short.yaml").open("a") as file:
        file.write(EVALUATED)
    first = run(commands, workspace)
    assert first.codes == [0], first.said
    folder = workspace / "runs" / "short" / "default"
    before = (folder / "results" / "perplexity.json").read_bytes()

    refused = run(commands, workspace, "--set", "train.steps=9")
    assert refused.codes == [2]
    assert refused.said == (
        "error: runs/short/default is trained to step 6 of 6, and train.steps is 9 now: go on from step 6 "
        "with --extend, set it to 6 again, or choose another folder with --set output=DIR\n"
    )
    other = run(commands, workspace, "--set", "train.steps=9", "--set", "train.learning_rate=1", "--extend")
    assert other.codes == [2]
    assert "train.learning_rate was 0.0003 and is 1.0; train.steps was 6 and is 9" in other.said
    assert (folder / "results" / "perplexity.json").read_bytes() == before

    extended = run(commands, workspace, "--set", "train.steps=9", "--extend")
    assert extended.codes == [0], extended.said
    kept = folder / "before-extension-at-step-6"
    assert (
        f"default: extended from step 6 to 9; what was measured before is in {kept.relative_to(workspace)}"
        in (extended.said)
    )
    assert (kept / "results" / "perplexity.json").read_bytes() == before
    assert (kept / "samples" / "perplexity.jsonl").is_file()

    rates = [line["learning_rate"] for line in log(folder)]
    of = [Train.model_validate({"objective": {"name": "llada"}, "steps": total}) for total in (6, 9)]
    assert rates[:6] == [learning_rate(of[0], step) for step in range(1, 7)]
    assert rates[6:] == [learning_rate(of[1], step) for step in range(7, 10)]

    expected = [{"from": 6, "to": 9}]
    assert (
        json.loads((folder / "checkpoints" / "step-9" / "provenance.json").read_text())["extended"]
        == expected
    )
    assert json.loads((folder / "variant.json").read_text())["extended"] == expected
    result = json.loads((folder / "results" / "perplexity.json").read_text())
    assert (result["provenance"]["step"], result["provenance"]["extended"]) == (9, expected)
    report = (workspace / "runs" / "short" / "report.md").read_text()
    assert "default: its training was extended from step 6 to 9" in report
    assert [step for step, _ in steps(folder)] == [6, 8, 9], "what was measured before is still there"

    again = run(commands, workspace, "--set", "train.steps=9")
    assert again.codes == [0], "it is a run of 9 steps from now on"
    twice = run(commands, workspace, "--set", "train.steps=10", "--extend", "--only=train")
    assert twice.codes == [0], twice.said
    about = json.loads((folder / "checkpoints" / "step-10" / "provenance.json").read_text())
    assert about["extended"] == [{"from": 6, "to": 9}, {"from": 9, "to": 10}]


@pytest.mark.slow
def test_fewer_steps_than_were_taken_are_refused(commands: Any, workspace: Path) -> None:
    assert run(commands, workspace, "--only", "train").codes == [0]
    for options in ([], ["--extend"]):
        fewer = run(commands, workspace, "--only", "train", "--set", "train.steps=4", *options)
        assert fewer.codes == [2]
        assert (
            "is trained to step 6 of 6, and train.steps is 4 now: steps that were taken are not" in fewer.said
        )
    idle = run(commands, workspace, "--only", "evaluate", "--extend")
    assert idle.codes == [2]
    assert "--extend trains, which --only evaluate leaves out" in idle.said


@pytest.mark.slow
def test_two_processes_extend_what_one_began(commands: Any, workspace: Path) -> None:
    stage = ("--only", "train", "--set", "train.deepspeed.zero_optimization.stage=2")
    assert run(commands, workspace, *stage).codes == [0]
    done = run(commands, workspace, *stage, "--set", "train.steps=8", "--extend", ranks=2)
    assert done.codes == [0, 0], done.said
    assert done.said.count("extended from step 6 to 8") == 1
    about = workspace / "runs" / "short" / "default" / "checkpoints" / "step-8" / "provenance.json"
    assert json.loads(about.read_text())["extended"] == [{"from": 6, "to": 8}]
