"""One process or two, any ZeRO stage: the same curve, and each goes on from the other's checkpoint."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

pytestmark = pytest.mark.slow

Curve = Callable[[Path], list[float]]
STEPS = 4


def settings(stage: int, output: str) -> list[str]:
    values = {
        "output": output,
        "train.steps": STEPS,
        "train.checkpoint.keep": 9,
        "train.weight_decay": 0.5,  # groups that lose theirs on the way show
        "train.learning_rate": 0.003,
        "train.decay": "constant",
        "train.deepspeed.zero_optimization.stage": stage,
    }
    return ["--only", "train"] + [
        part for key, value in values.items() for part in ("--set", f"{key}={value}")
    ]


def final_weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "default" / "checkpoints" / f"step-{STEPS}" / "model" / "model.safetensors")


@pytest.fixture(scope="module")
def curve_without_zero(commands: Any, module_workspace: Path, curve: Curve) -> list[float]:
    done = commands.run("run", "short.yaml", *settings(0, "plain"), cwd=module_workspace)
    assert done.codes == [0], done.said
    return curve(module_workspace / "plain")


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_the_curve_is_the_same_for_one_and_two_processes_and_across_a_change_between_them(
    commands: Any, module_workspace: Path, curve: Curve, curve_without_zero: list[float], stage: int
) -> None:
    for ranks, others in ((1, 2), (2, 1)):
        whole = module_workspace / f"stage-{stage}-on-{ranks}"
        arguments = ["run", "short.yaml", *settings(stage, whole.name)]
        done = commands.run(*arguments, cwd=module_workspace, ranks=ranks)
        assert done.codes == [0] * ranks, done.said
        assert curve(whole) == pytest.approx(curve_without_zero, rel=1e-5)

        cut = shutil.copytree(whole, module_workspace / f"{whole.name}-then-{others}")
        shutil.rmtree(cut / "default" / "checkpoints" / f"step-{STEPS}")
        arguments = ["run", "short.yaml", *settings(stage, cut.name)]
        done = commands.run(*arguments, cwd=module_workspace, ranks=others)
        assert done.codes == [0] * others, done.said
        assert curve(cut)[:3] == curve(whole)[:3], "it began anew"
        assert curve(cut) == pytest.approx(curve_without_zero, rel=1e-5)
        expected = final_weights(whole)
        for name, tensor in final_weights(cut).items():
            assert torch.allclose(tensor, expected[name], rtol=0, atol=2e-6), name
        assert not list((cut / "default" / "checkpoints").glob(".*"))
