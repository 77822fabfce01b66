"""Which problems a run may learn from: said before anything is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from opendllm.core.manifest.experiment_manifest import experiment_of
from opendllm.core.planning.devices import Device
from opendllm.core.planning.hardware import Hardware
from opendllm.core.planning.plan import plan
from opendllm.core.toolkit.synthetic_functions import synthetic_functions
from opendllm.core.training.reinforcement.start import run_problems
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.errors import UserError

TESTED = next(synthetic_functions("held-out"))
LEARNT = next(synthetic_functions("train"))


def variant(folder: Path, evaluate: bool = True, **rl: Any) -> Any:
    """Learns from the problems in problems.jsonl, and is tested with made-up functions."""
    content: dict[str, Any] = {
        "name": "shown",
        "allow_code_execution": True,
        "model": {"backbone": {"name": "llada"}},
        "data": {
            "corpus": {"name": "synthetic-functions"},
            "tokenizer": {"train": {"vocab_size": 300}},
            "sequence_length": 64,
        },
        "train": {
            "objective": {"name": "coupled-grpo"},
            "steps": 6,
            "global_batch_size": 16,
            "rl": {
                "problems": {"path": str(folder / "problems.jsonl")},
                "rewards": [{"reward": {"name": "code", "options": {"program": "continuation"}}}],
                "iterations": 2,
                "rollout": {"max_new_tokens": 32, "steps": 8},
                **rl,
            },
        },
        "evaluate": [{"benchmark": {"name": "synthetic-functions", "options": {"problems": 8}}}],
    }
    if not evaluate:
        del content["evaluate"]
    return experiment_of(content, "a test", "default", installed_plugins()).variants[0]


def write(folder: Path, *functions: Any, **more: Any) -> None:
    lines = [
        {"task_id": each.name, "prompt": each.prompt, "tests": list(each.tests), **more} for each in functions
    ]
    (folder / "problems.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_problems_that_the_model_is_tested_with_are_refused(tmp_path: Path) -> None:
    write(tmp_path, LEARNT, TESTED)
    with pytest.raises(UserError, match=f"can't be trained on .'{TESTED.name}' of synthetic-functions"):
        run_problems(variant(tmp_path))
    problems, held_out = run_problems(variant(tmp_path, evaluate=False))
    assert [each.task_id for each in problems] == [LEARNT.name, TESTED.name]
    assert held_out == []


def test_a_benchmarks_own_training_problems_are_not(tmp_path: Path) -> None:
    functions = {"benchmark": {"name": "synthetic-functions"}}
    apart = {
        "benchmark": {"name": "synthetic-functions", "options": {"training_split": "held-out"}},
        "limit": 5,
    }
    found = run_problems(variant(tmp_path, problems={**functions, "limit": 9}, held_out={"problems": apart}))
    assert [len(part) for part in found] == [9, 5]


@pytest.mark.parametrize(
    ("rl", "message"),
    [
        (
            {"held_out": {"problems": {"path": "problems.jsonl", "limit": 1}}},
            "1 of its problems are trained on",
        ),
        ({"problems": {"path": "problems.jsonl", "skip": 1}}, "skip is 1, and there are 1 problems: none"),
        ({"rewards": [{"reward": {"name": "exact-match"}}]}, "exact-match .* can't judge answers to problem"),
    ],
)
def test_what_cannot_be_learnt_from_is_one_line(
    tmp_path: Path, rl: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, LEARNT)
    with pytest.raises(UserError, match=message) as caught:
        run_problems(variant(tmp_path, **rl))
    assert len(str(caught.value).splitlines()) == 1


def test_the_plan_counts_answers_and_what_they_are_read_with(tmp_path: Path) -> None:
    write(tmp_path, LEARNT)
    device = Device("a device", {"fp32": 1e12, "bf16": 1e12}, 1e11, 1 << 34, is_gpu=True)
    hardware = Hardware(1, device, 0.5)
    found = plan(variant(tmp_path, evaluate=False), hardware)
    rollouts, training = found.rollouts, found.training
    assert rollouts is not None
    assert training is not None
    assert (rollouts.phases, rollouts.answers) == (3, 48)
    assert rollouts.forward_passes == 48 * 8
    assert 32 < rollouts.row_length < 64
    assert rollouts.flops < training.flops
    assert training.seconds == pytest.approx(training.flops / 0.5e12)
    greedy = plan(variant(tmp_path, evaluate=False, rollout={"max_new_tokens": 32}), hardware)
    assert greedy.rollouts is not None
    assert greedy.rollouts.forward_passes == 48 * 32
