"""Mixtures of experts under the trainer: routers, frozen or balanced, in float32."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from opendllm.core.checkpoints.files import steps
from opendllm.core.training.trainer import TrainingRun, train
from opendllm.registries.errors import UserError

MakeRun = Callable[..., TrainingRun]


def losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def routers(run: TrainingRun) -> list[Any]:
    found = [
        getattr(layer.mlp, "gate", None) for layer in run.lm.network.get_submodule("model.layers").children()
    ]
    return [router for router in found if router is not None]


def test_a_frozen_router_stays_and_its_experts_learn(make_run: MakeRun) -> None:
    run = make_run(backbone="llada-moe", objective="llada", freeze=[r"\.mlp\.gate\."])
    before = {name: tensor.clone() for name, tensor in run.lm.network.state_dict().items()}
    train(run)
    for name, tensor in run.lm.network.state_dict().items():
        if ".mlp." in name:
            assert torch.equal(tensor, before[name]) == (".mlp.gate." in name), name


def test_the_balancing_loss_does_not_move_with_micro_batches(make_run: MakeRun) -> None:
    """Nor with partitioned weights, or activations that are computed twice."""
    cases: dict[str, dict[str, Any]] = {
        "whole": {},
        "parts": {"micro_batch_size": 2},
        "stage-3": {"deepspeed": {"zero_optimization": {"stage": 3}}},
        "recomputed": {"activation_checkpointing": True},
    }
    curves = {}
    for name, settings in cases.items():
        run = make_run(name, backbone="sdar-moe", objective="sdar", load_balancing=0.5, **settings)
        train(run)
        curves[name] = losses(run.folder)
        assert curves[name] == pytest.approx(curves["whole"], rel=1e-4), name
    plain = make_run("plain", backbone="sdar-moe", objective="sdar")
    train(plain)
    # Two of eight experts, chosen nearly alike: half of two, and a little.
    assert curves["whole"][0] - losses(plain.folder)[0] == pytest.approx(1.0, abs=0.2)
    ours, others = (
        load_file(steps(run.folder)[-1][1] / "model" / "model.safetensors") for run in (run, plain)
    )
    key = "model.layers.0.mlp.gate.weight"
    assert not torch.equal(ours[key], others[key])


def test_a_dense_model_cannot_be_balanced(make_run: MakeRun) -> None:
    with pytest.raises(UserError, match=r"train\.load_balancing: this backbone has no mixture layers"):
        train(make_run(load_balancing=0.01))


@pytest.mark.parametrize(("name", "objective"), [("sdar-moe", "sdar"), ("llada2", "llada2")])
def test_routers_are_computed_in_float32_under_a_bf16_engine(
    make_run: MakeRun, name: str, objective: str
) -> None:
    run = make_run(backbone=name, objective=objective, steps=1, precision="bf16")
    seen = []
    for router in routers(run):
        router.register_forward_hook(
            lambda module, inputs, output: seen.append(
                (inputs[0].dtype, module.weight.dtype, output[0].dtype, output[1].dtype)
            )
        )
        if name == "llada2":
            router.e_score_correction_bias.fill_(1 / 3)
    train(run)
    assert set(seen) == {(torch.bfloat16, torch.bfloat16, torch.float32, torch.float32)}
    if name == "llada2":  # what it balances its load with is no weight, and keeps its digits
        saved = load_file(steps(run.folder)[-1][1] / "model" / "model.safetensors")
        bias = saved["model.layers.1.mlp.gate.expert_bias"]
        assert torch.equal(bias, torch.full_like(bias, 1 / 3, dtype=torch.float32))
