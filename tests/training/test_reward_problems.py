"""Which problems a run may learn from: said before anything is trained."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import pytest

from opendllm.core.manifest.experiment_manifest import experiment_of
from opendllm.core.planning import needs
from opendllm.core.planning.devices import Device
from opendllm.core.planning.hardware import Hardware
from opendllm.core.planning.needs import check_here
from opendllm.core.planning.plan import plan
from opendllm.core.rewards.weighing import WeightedReward
from opendllm.core.toolkit.synthetic_functions import synthetic_functions
from opendllm.core.training.reinforcement.keeping import refuse_keeping_none
from opendllm.core.training.reinforcement.run_problems import run_problems
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.errors import UserError
from opendllm.registries.options import RewardOptions
from opendllm.registries.policies import PolicyObjective
from opendllm.registries.registry import ChosenPlugin

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


def test_files_of_problems_are_looked_at_before_anything_is_run(tmp_path: Path) -> None:
    """Not even a corpus is read before; what hangs on a benchmark's problems is said later."""
    problems = tmp_path / "problems.jsonl"
    made_up = variant(tmp_path, problems={"benchmark": {"name": "synthetic-functions"}, "skip": 10**6})
    missing = variant(tmp_path)
    with pytest.raises(UserError, match=r"default: train.rl.problems: .* cannot be read") as caught:
        check_here([missing, made_up, missing])
    assert len(str(caught.value).splitlines()) == 1
    [planned] = needs.missing(missing)
    assert planned == str(caught.value).removeprefix("default: ")
    problems.write_text('{"task_id": "a", "prompt": "a"}\n')
    with pytest.raises(UserError, match=r"code .* can't judge answers to problem 'a': it has no `tests`"):
        check_here([missing])
    write(tmp_path, LEARNT, TESTED)
    check_here([missing])  # that one is tested is said when the benchmark has been asked
    check_here([missing], stages=["evaluate"])


@pytest.mark.parametrize(
    ("kept", "weights", "message"),
    [
        ([5, 6], {"exact-match": 1}, "an answer is worth between 0 and 1 here"),
        ([-1, -0.1], {"exact-match": 1, "length": 1}, None),
        ([0.2, 0.8], {"exact-match": 1}, None),
        ([1.5, 2], {"exact-match": -2, "length": -2}, None),
        ([-3, -2.5], {"exact-match": -2, "length": 0.25}, "an answer is worth between -2.25 and 0 here"),
    ],
)
def test_an_objective_that_would_keep_no_prompt_is_refused(
    kept: list[float], weights: dict[str, float], message: str | None
) -> None:
    plugins = installed_plugins()
    objective = plugins.objectives.get("trace-rl").build({"kept_rewards": kept})
    rewards = []
    for name, weight in weights.items():
        registration = plugins.rewards.get(name)
        options = registration.options.model_validate({"buffer": 2} if name == "length" else {})
        rewards.append(WeightedReward(ChosenPlugin(registration, cast(RewardOptions, options)), name, weight))
    said = pytest.raises(UserError, match=message) if message else nullcontext()
    with said:
        refuse_keeping_none(cast(PolicyObjective, objective), rewards, 4)


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
