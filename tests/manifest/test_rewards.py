"""Manifests that learn from rewards: what doesn't go together is said in a line, before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from opendllm.core.manifest.experiment_manifest import Experiment, read_experiment
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.errors import UserError

RL: dict[str, Any] = {
    "problems": {"path": "problems.jsonl"},
    "rewards": [{"reward": {"name": "exact-match"}}],
    "group_size": 4,
}
MANIFEST: dict[str, Any] = {
    "name": "rewarded",
    "model": {"backbone": {"name": "llada"}},
    "data": {
        "corpus": {"name": "python-stdlib"},
        "tokenizer": {"train": {"vocab_size": 300}},
        "sequence_length": 32,
    },
    "train": {"objective": {"name": "coupled-grpo"}, "steps": 4, "global_batch_size": 8, "rl": RL},
}


def read(folder: Path, *settings: str, content: dict[str, Any] = MANIFEST) -> Experiment:
    with (folder / "manifest.yaml").open("w") as file:
        YAML().dump(content, file)
    return read_experiment(folder / "manifest.yaml", settings, installed_plugins())


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        (
            "rewards=[exact-match]",
            ["rewards.0: should be a mapping (given: 'exact-match'): write {reward: {name: exact-match}}"],
        ),
        (
            "rewards=[{name: exact-match}]",
            ["rewards.0.reward: is missing", "rewards.0.name: unknown key; did you mean 'weight'?"],
        ),
        ("problems=p.jsonl", ["problems: should be a mapping (given: 'p.jsonl'): write {path: p.jsonl}"]),
    ],
)
def test_a_short_form_is_told_the_whole_one_and_nothing_else(
    tmp_path: Path, setting: str, expected: list[str]
) -> None:
    with pytest.raises(UserError) as caught:
        read(tmp_path, f"train.rl.{setting}")
    said = [
        line.removeprefix("--set train.rl.").split(": train.rl.")[-1]
        for line in str(caught.value).splitlines()
    ]
    assert [line.split("; ")[0] for line in said] == [line.split("; ")[0] for line in expected]


def test_everything_that_such_a_manifest_names_is_found_and_travels(tmp_path: Path) -> None:
    [variant] = read(tmp_path).variants
    named = {f"{each.registration.kind}/{each.name}" for each in variant.plugins}
    assert {"rewards/exact-match", "objectives/coupled-grpo", "samplers/low-confidence"} <= named
    assert variant.manifest.train is not None
    assert variant.manifest.train.rl is not None
    assert variant.manifest.train.rl.problems.path == str(tmp_path / "problems.jsonl")
    assert variant.manifest.train.rl.rollout.temperature == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["train.rl.group_size=1"], "train.rl.group_size: .*greater than or equal to 2"),
        (["train.rl.group_size=3"], "global_batch_size 8 is not a multiple of rl.group_size 3"),
        (["train.rl.problems={}"], "give either `path` or `benchmark`"),
        (["train.rl.rewards=[]"], "train.rl.rewards: .*at least 1"),
        (
            ["train.rl.rewards=[{reward: {name: code}}]"],
            "train.rl.rewards.0.reward.name: 'code' runs what the model writes: set allow_code",
        ),
        (
            [
                "train.rl.rewards=[{reward: {name: code, options: {program: continuation}}}]",
                "train.rl.rollout.chat=true",
                "allow_code_execution=true",
            ],
            "train.rl.rewards.0.reward.options: a chat's answers continue no program",
        ),
        (
            ["train.rl.rewards=[{reward: {name: exact}}]"],
            "train.rl.rewards.0.reward.name: .*did you mean 'exact-match'",
        ),
        (
            ["train.rl.rewards=[{reward: {name: exact-match}}, {reward: {name: exact-match}}]"],
            "train.rl.rewards.1: 'exact-match' is there twice: give each a `label`",
        ),
        (
            [
                "train.rl.rewards=[{reward: {name: format}, label: a}, "
                "{reward: {name: exact-match}, label: a}]"
            ],
            "train.rl.rewards.1: 'a' is there twice",
        ),
        (
            ["train.rl.rewards=[{reward: {name: exact-match}, label: seconds}]"],
            "train.rl.rewards.0: is called 'seconds', as a column of train.jsonl is",
        ),
        (["train.rl.rewards=[{reward: {name: exact-match}, label: a b}]"], "rewards.0.label: .*pattern"),
        (["train.rl.rewards=[{reward: {name: exact-match}, weight: 0}]"], "weight: is 0"),
        (
            ["train.rl.rollout.temperature=0"],
            "train.rl.rollout.temperature: at temperature 0 all 4 answers to a prompt would be the same",
        ),
        (
            ["train.objective.name=llada"],
            "train.objective.name: 'llada' learns documents, and train.rl is for",
        ),
        (["train.rl=null"], "train.objective.name: 'coupled-grpo' learns from rewards: say in train.rl"),
        (["train.rl.reference.mix=0.5"], "mix has no effect without `every`"),
        (
            ["train.rl.iterations=2", "train.rl.reference.every=3"],
            "every 3 is not a multiple of rl.iterations 2",
        ),
        (
            ["train.rl.reference.every=2", "train.objective.options={beta: 0}"],
            "train.rl.reference: has no effect: the objective's options ask for no reference model",
        ),
        (["train.rl.reference.offload=true", "train.lora={rank: 4}"], "rl.reference has no effect with lora"),
        (["train.held_out.every=2"], "rl.held_out measures how many held-out problems pass"),
        (["train.checkpoint.keep_best=2"], "rl.held_out measures how many held-out problems pass"),
        (["train.noise_schedule.name=cosine"], "noise_schedule has no effect with rl"),
        (
            ["train.rl.held_out={problems: {path: other.jsonl}, reward: math}"],
            "'math' is none of the rewards: name one of exact-match",
        ),
        (
            ["train.rl.held_out={problems: {path: other.jsonl}, samples: 2}"],
            "samples: several answers are the same",
        ),
        (
            ["train.rl.held_out={problems: {path: HERE/problems.jsonl}}"],
            "train.rl.held_out.problems: are those that are trained on",
        ),
        (
            ["train.objective={name: trace-rl}"],
            "'trace-rl' trains block-causal models, and the backbone's attention is bidirectional",
        ),
        (["train.rl.rollout.sampler.name=gidd"], "sampler 'gidd' undoes .* noise, and this model's is mask"),
        (["data=null"], "data: is missing"),
    ],
)
def test_what_does_not_go_together_is_one_line(tmp_path: Path, settings: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read(tmp_path, *(setting.replace("HERE", str(tmp_path)) for setting in settings))
    assert len(str(caught.value).splitlines()) == 1


def test_a_checkpoint_brings_its_own_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    options = f"model.backbone.options={{pretrained: {tmp_path / 'model'}}}"
    [variant] = read(tmp_path, "data=null", options).variants
    assert variant.manifest.data is None


def test_a_reward_may_be_there_several_times_by_labels(tmp_path: Path) -> None:
    """As d1 has `format` in several forms; one that is held out is named by its label."""
    forms = "{reward: {name: format}}, {reward: {name: format, options: {form: think-answer}}, label: thinks}"
    held_out = "train.rl.held_out={problems: {path: other.jsonl}, reward: thinks}"
    [variant] = read(tmp_path, f"train.rl.rewards=[{forms}]", held_out).variants
    assert variant.plugins.rewards is not None
    found = [(each.label, each.plugin.name) for each in variant.plugins.rewards.rewards]
    assert found == [("format", "format"), ("thinks", "format")]
    with pytest.raises(UserError, match="'format-2' is none of the rewards: name one of format, thinks"):
        read(tmp_path, f"train.rl.rewards=[{forms}]", held_out.replace("thinks", "format-2"))


def test_what_is_only_looked_at_makes_no_other_training(tmp_path: Path) -> None:
    (tmp_path / "problems.jsonl").write_text('{"task_id": "a", "prompt": "a", "answer": "b"}\n')
    first = read(tmp_path).variants[0].training_digest
    same = ["train.rl.reward_seconds=5", "train.rl.rollout.batch_size=3", "train.rl.reference.offload=true"]
    same.append("train.rl.rewards=[{reward: {name: exact-match}, label: right}]")
    for setting in (*same, "train.rl.held_out={problems: {path: other.jsonl}}"):
        assert read(tmp_path, setting).variants[0].training_digest == first
    for setting in ("train.rl.group_size=2", "train.rl.rollout.temperature=0.5"):
        assert read(tmp_path, setting).variants[0].training_digest != first
    (tmp_path / "problems.jsonl").write_text('{"task_id": "a", "prompt": "a", "answer": "c"}\n')
    assert read(tmp_path).variants[0].training_digest != first


def test_the_resolved_manifest_is_one(tmp_path: Path) -> None:
    """With every default spelled out."""
    held_out = "train.rl.held_out={problems: {path: other.jsonl}, every: 2}"
    resolved = read(tmp_path, held_out, "train.rl.reference.every=2").resolved()
    again = read(tmp_path, content=resolved).resolved()
    assert again == resolved
