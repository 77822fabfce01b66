"""Learning from rewards: what a phase computes hangs on no micro-batch, no rank and no interruption."""

from __future__ import annotations

import json
import math
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

MANIFEST = """
name: rewarded
model: {backbone: {name: llada}}
data:
  corpus: {name: text-files, options: {train: texts/a*.py, held_out: texts/held*.py}}
  tokenizer: {train: {vocab_size: 280}}
  sequence_length: 32
train:
  objective: {name: coupled-grpo, options: {beta: 0.1}}
  steps: 6
  global_batch_size: 8
  learning_rate: 0.003
  checkpoint: {every: 1, keep: 2}
  rl:
    problems: {path: problems.jsonl}
    rewards:
      - {reward: {name: length, options: {buffer: 47}}, weight: 2}
      - {reward: {name: exact-match}}
    group_size: 4
    iterations: 2
    rollout: {max_new_tokens: 48, steps: 4, sampler: {name: low-confidence}, batch_size: 3}
    reference: {every: 4, mix: 0.5}
    held_out: {problems: {path: held.jsonl}, every: 3, samples: 2, temperature: 1.0, reward: exact-match}
"""
SECONDS = (
    "seconds", "tokens_per_second", "peak_memory_bytes", "processes",
    "rollout_seconds", "reward_seconds", "likelihood_seconds", "update_seconds",
)  # fmt: skip
LORA, ZERO = "lora={rank: 2}", "deepspeed.zero_optimization"
ALONE = ["run", "rewarded.yaml", "--only", "train"]


@pytest.fixture(scope="module")
def rewarded(module_workspace: Path) -> Path:
    """A folder with that manifest and its problems."""
    workspace = module_workspace
    (workspace / "rewarded.yaml").write_text(MANIFEST)
    for name, prompts in (("problems", ["def f", "x = ", "return a + ", "for"]), ("held", ["y = ", "while"])):
        lines = [{"task_id": prompt, "prompt": prompt, "answer": "1"} for prompt in prompts]
        (workspace / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return workspace


def lines(run: Path) -> list[dict[str, Any]]:
    """Of its train.jsonl, without how long things took."""
    found = [json.loads(line) for line in (run / "default" / "train.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in SECONDS} for line in found]


def trained(commands: Any, folder: Path, output: str, *settings: str, ranks: int = 1) -> Path:
    arguments = [*ALONE, "--set", f"output={output}", *(f"--set={setting}" for setting in settings)]
    arguments += ["--launcher", "torchrun"] if ranks > 1 else []
    done = commands.run(*arguments, cwd=folder, ranks=ranks)
    assert done.codes == [0] * ranks, done.said
    return folder / output


def model(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "default" / "checkpoints" / "step-6" / "model" / "model.safetensors")


@pytest.fixture(scope="module")
def whole(commands: Any, rewarded: Path) -> Path:
    """A run that nothing happened to."""
    return trained(commands, rewarded, "whole")


def test_lines_say_what_a_phase_came_to(whole: Path) -> None:
    log = lines(whole)
    assert [line["step"] for line in log] == list(range(7))
    assert [line.get("phase") for line in log] == [None, 1, 1, 2, 2, 3, 3]
    assert ["reward" in line for line in log] == [False, True, False, True, False, True, False]
    assert ["held_out_pass_rate" in line for line in log] == [True, False, False, True, False, False, True]
    for line in log:
        if "reward" in line:
            assert line["reward"] == pytest.approx(2 * line["reward_length"] + line["reward_exact-match"])
            assert 1 <= line["completion_length"] <= 48
            assert {"reward_deviation", "groups_without_spread", "full_marks_length", "ended"} <= line.keys()
        if line["step"]:
            assert 0 <= line["clip_fraction"] <= 1
            assert line["kl"] >= 0
    assert any(line["groups_without_spread"] < 1 for line in log if "reward" in line)
    assert len({line["reward"] for line in log if "reward" in line}) > 1  # other answers in each phase
    # The policy that wrote the answers takes a phase's first step: every ratio is 1.
    assert [line["clip_fraction"] for line in log[1::2]] == [0.0] * 3
    assert log[2]["kl"] > 0


def test_a_run_killed_in_a_phase_ends_bit_equal_to_one_that_was_not(
    commands: Any, rewarded: Path, whole: Path
) -> None:
    """Between a phase's steps its answers, rewards and likelihoods are saved with the step."""
    settings = ["--set", "output=killed"]
    killed = commands.run(*ALONE, *settings, cwd=rewarded, signal=(signal.SIGKILL, -3))
    assert killed.codes == [-signal.SIGKILL], killed.said
    saved = rewarded / "killed" / "default" / "checkpoints"
    assert (saved / "step-3" / "phase").is_dir()
    assert not (saved / "step-2" / "phase").exists()
    assert len(lines(rewarded / "killed")) == 4
    again = trained(commands, rewarded, "killed")
    assert lines(again) == lines(whole)
    torch.testing.assert_close(model(again), model(whole), rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ranks", "settings"),
    [
        (2, ["train.micro_batch_size=2", "train.rl.reference.offload=true"]),
        (2, ["train.deepspeed.zero_optimization.stage=3"]),
    ],
    ids=["two-ranks", "two-ranks-with-zero-3"],
)
def test_ranks_and_micro_batches_change_nothing_but_rounding(
    commands: Any, rewarded: Path, whole: Path, ranks: int, settings: list[str]
) -> None:
    """Every rank writes and judges its share; under ZeRO 3 with weights that are gathered for it."""
    other = trained(commands, rewarded, f"other-{ranks}-{len(settings)}", *settings, ranks=ranks)
    for ours, theirs in zip(lines(other), lines(whole), strict=True):
        assert ours == pytest.approx(theirs, rel=2e-3, abs=2e-5)
    torch.testing.assert_close(model(other), model(whole), rtol=0, atol=2e-4)


@pytest.mark.slow
def test_a_phase_goes_on_with_another_number_of_ranks(commands: Any, rewarded: Path, whole: Path) -> None:
    """What two ranks wrote of it, one takes up."""
    settings = ["--set", "output=shared"]
    arguments = [*ALONE, *settings, "--launcher", "torchrun"]
    killed = commands.run(*arguments, cwd=rewarded, ranks=2, signal=(signal.SIGKILL, -1))
    assert -signal.SIGKILL in killed.codes, killed.said
    alone = trained(commands, rewarded, "shared")
    for ours, theirs in zip(lines(alone), lines(whole), strict=True):
        assert ours == pytest.approx(theirs, rel=2e-3, abs=2e-5)


def test_adapters_are_held_near_the_model_without_them(commands: Any, rewarded: Path) -> None:
    settings = [
        "train.lora={rank: 4}",
        "train.rl.reference={every: null, mix: 1.0}",
        "train.steps=2",
        "train.learning_rate=0.01",
    ]
    run = trained(commands, rewarded, "adapters", *settings)
    log = lines(run)
    assert log[1]["kl"] == 0  # adapters begin as a change of nothing
    assert log[2]["kl"] > 0
    assert not list(run.rglob("reference.safetensors"))


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2])
def test_traces_of_blocks_are_shared_out(commands: Any, rewarded: Path, ranks: int) -> None:
    """Answers have other numbers of slices, and some prompts are left out: all ranks read as often."""
    settings = [
        "model.backbone={name: sdar, options: {attention: block-causal, block_length: 4}}",
        "train.objective={name: trace-rl, options: {beta: 0.1, kept_rewards: [-1.999, 1]}}",
        "train.rl.rollout.sampler={name: block-steps, options: {rule: dynamic, threshold: 0.01}}",
        "train.rl.rollout.steps=null",
        "train.rl.reference={every: null, mix: 1.0}",
        "train.steps=4",
        "train.micro_batch_size=2",
        "train.deepspeed.zero_optimization.stage=2",
    ]
    alone = trained(commands, rewarded, "trace-alone", *settings)
    shared = trained(commands, rewarded, "trace-shared", *settings, ranks=ranks)
    for ours, theirs in zip(lines(shared), lines(alone), strict=True):
        assert ours == pytest.approx(theirs, rel=2e-3, abs=2e-5)
    assert any(0 < line.get("learnt", 0) < 1 for line in lines(alone))


def test_where_no_group_has_spread_nothing_is_learnt(commands: Any, rewarded: Path) -> None:
    """Without weight decay, which would move the weights and with them the penalty."""
    settings = [
        "train.rl.rewards=[{reward: {name: exact-match}}]",
        "train.weight_decay=0",
        "train.steps=4",
        "train.rl.held_out=null",
    ]
    log = lines(trained(commands, rewarded, "nothing", *settings))
    assert [line["groups_without_spread"] for line in log if "reward" in line] == [1, 1]
    assert [(line["kl"], line["gradient_norm"]) for line in log[1:]] == [(0, 0)] * 4


@pytest.mark.parametrize(
    ("ranks", "settings"),
    [
        (1, ["precision=bf16", "ema={decay: 0.5}", "rl.reference.offload=true", "micro_batch_size=2"]),
        (1, [LORA, "precision=bf16", "ema={decay: 0.5}", "activation_checkpointing=true"]),
        pytest.param(1, ["compile=true", "precision=bf16", "micro_batch_size=4"], marks=pytest.mark.slow),
        pytest.param(
            2,
            [f"{ZERO}={{stage: 2, offload_optimizer: true}}", "precision=bf16", "ema={decay: 0.5}"],
            marks=pytest.mark.slow,
        ),
        pytest.param(2, [f"{ZERO}.stage=3", LORA, "activation_checkpointing=true"], marks=pytest.mark.slow),
    ],
    ids=["bf16-averaged-offloaded", "adapters", "compiled", "zero-2", "zero-3-adapters"],
)
def test_it_goes_with_what_else_training_offers(
    commands: Any, rewarded: Path, ranks: int, settings: list[str]
) -> None:
    reference = "rl.reference={}" if LORA in settings else "rl.reference.every=2"
    given = ["steps=4", "rl.held_out.every=2", reference, *settings]
    run = trained(commands, rewarded, "beside", *(f"train.{each}" for each in given), ranks=ranks)
    log = lines(run)
    assert [line["kl"] for line in log[1:2]] == [pytest.approx(0, abs=1e-4)]  # 0 but where it is compiled
    assert [line["clip_fraction"] for line in log[1::2]] == [0, 0]
    assert all(line["gradient_norm"] > 0.01 for line in log[1:])
    assert all(line["kl"] > 1e-4 for line in log[2:])
    assert [line["step"] for line in log if "held_out_reward" in line] == [0, 2, 4]
    assert all(math.isfinite(value) for line in log for value in line.values() if value is not None)
    shutil.rmtree(run)


def test_a_reward_that_fails_on_one_ranks_answers_ends_all_with_its_line(
    commands: Any, rewarded: Path
) -> None:
    """Else the other would wait for it in the sum of the rewards."""
    problems = [
        {"task_id": "fine", "prompt": "x = 1 #", "tests": ["assert x == 1"]},
        {"task_id": "broken", "prompt": "y = 1 #", "tests": ["assert y == 1"], "setup": "1 / 0"},
    ]
    (rewarded / "broken.jsonl").write_text("".join(json.dumps(each) + "\n" for each in problems))
    settings = {
        "output": "broken",
        "allow_code_execution": "true",
        "train.global_batch_size": "4",
        "train.rl.group_size": "2",
        "train.rl.problems.path": "broken.jsonl",
        "train.rl.rewards": "[{reward: {name: code, options: {program: continuation}}}]",
        "train.rl.held_out": "null",
        "train.rl.rollout": "{max_new_tokens: 4, steps: 2}",
    }
    given = [f"--set={key}={value}" for key, value in settings.items()]
    done = commands.run(*ALONE, *given, "--launcher", "torchrun", cwd=rewarded, ranks=2)
    assert done.codes == [2, 2], done.said
    said = [line for line in done.said.splitlines() if "error: " in line]
    assert len(said) == 2
    assert all("code of open-dllm" in line and "problem broken can't be scored here" in line for line in said)
