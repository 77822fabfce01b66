"""LoRA, freezing and averaging: what is trained, and what is saved of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from opendllm.core.checkpoints.families import backbone_of
from opendllm.core.checkpoints.files import steps
from opendllm.core.checkpoints.loading import load_model
from opendllm.core.manifest.train_schema import Train, WeightAverage
from opendllm.core.training.averaging import MovingAverage
from opendllm.core.training.trainer import TrainingRun, train
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.errors import UserError
from opendllm.registries.sequences import ModelInputs

MakeRun = Callable[..., TrainingRun]


def last_step(run: TrainingRun) -> Path:
    return steps(run.folder)[-1][1]


def weights(run: TrainingRun) -> dict[str, Tensor]:
    return load_file(last_step(run) / "model" / "model.safetensors")


def inputs() -> ModelInputs:
    tokens = torch.arange(20, 36)[None]
    return ModelInputs(tokens, torch.zeros_like(tokens), torch.arange(16)[None])


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("stage", [0, 2, 3])
@pytest.mark.parametrize("backbone", ["open-dcoder", "llada"])
def test_adapters_are_saved_as_peft_does_and_merged(make_run: MakeRun, backbone: str, stage: int) -> None:
    from peft import PeftModel

    start = make_run("start", backbone=backbone, objective=backbone).lm
    targets = ["q_proj", "down_proj", *(["lm_head"] if backbone == "llada" else [])]  # the other's is tied
    run = make_run(
        backbone=backbone,
        objective=backbone,
        lora={"rank": 4, "alpha": 8, "targets": targets},
        steps=5,
        learning_rate=1e-2,
        deepspeed={"zero_optimization": {"stage": stage}},
    )
    train(run)
    step = last_step(run)
    family = backbone_of(installed_plugins(), step)
    assert family.name == backbone
    merged = load_model(step, family, torch.device("cpu"))
    assert set(merged.module.state_dict()) == set(start.module.state_dict())
    changed = {
        name
        for name, tensor in merged.module.state_dict().items()
        if not torch.equal(tensor, start.module.state_dict()[name])
    }
    assert changed
    assert all(name.endswith(tuple(f"{target}.weight" for target in targets)) for name in changed)
    with torch.no_grad():
        ours = merged.project(merged.hidden_states(inputs()))
        adapted = PeftModel.from_pretrained(start.network, str(step / "adapter"))
        theirs = start.project(start.hidden_states(inputs()))
        assert torch.allclose(ours, theirs, atol=1e-5)
        with adapted.disable_adapter():
            plain = start.project(start.hidden_states(inputs()))
            assert not torch.allclose(ours, plain, atol=1e-3), "the control"


def test_a_run_with_adapters_goes_on_bit_equal(make_run: MakeRun) -> None:
    settings: dict[str, Any] = {
        "lora": {"rank": 2, "dropout": 0.3},
        "ema": {"decay": 0.9},
        "steps": 4,
        "checkpoint": {"every": 2},
        "learning_rate": 1e-2,
    }
    whole = make_run("whole", **settings)
    train(whole)

    def cut(step: int, loss: float, speed: float) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(make_run("cut", on_step=cut, **settings))
    resumed = make_run("cut", **settings)
    train(resumed)
    for name in ("model/model.safetensors", "adapter/adapter_model.safetensors", "average.safetensors"):
        assert (last_step(resumed) / name).read_bytes() == (last_step(whole) / name).read_bytes(), name


@pytest.mark.parametrize(
    ("targets", "named"),
    [
        ("q_prj", "The linear layers are model.layers.0.self_attn.q_proj"),
        (["embed_tokens"], "embed_tokens is not a linear layer"),
        (["q_proj", "att_proj"], "no layer's name ends in 'att_proj'. The linear layers are model.layers.0"),
    ],
)
def test_adapters_on_nothing_are_an_error(make_run: MakeRun, targets: Any, named: str) -> None:
    with pytest.raises(UserError, match=rf"train\.lora\.targets: .*{named}"):
        train(make_run(lora={"targets": targets}))


def test_an_adapter_on_tied_weights_is_an_error(make_run: MakeRun) -> None:
    run = make_run(lora={"targets": ["q_proj", "lm_head"]})
    assert run.lm.network.get_output_embeddings().weight is run.lm.network.get_input_embeddings().weight
    with pytest.raises(UserError, match=r"lm_head has its weights in common with model\.embed_tokens"):
        train(run)


def test_a_missing_package_says_how_to_get_it(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match=r"train\.lora needs peft: pip install 'open-dllm\[lora\]'"):
        train(make_run(lora={}))


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_what_is_frozen_stays_and_the_rest_moves(make_run: MakeRun, stage: int) -> None:
    start = make_run("start").lm.module.state_dict()
    zero = {"zero_optimization": {"stage": stage}}
    run = make_run(freeze=["embed_tokens", r"layers\.0\."], steps=2, deepspeed=zero, checkpoint={"every": 1})
    train(run)
    for name, tensor in weights(run).items():
        frozen = "embed_tokens" in name or "layers.0." in name
        assert torch.equal(tensor, start[f"network.{name}"]) == frozen, name


@pytest.mark.parametrize(
    ("patterns", "named"),
    [
        (
            ["embed_token$"],
            r"'embed_token\$' matches no parameter; there are network.model.embed_tokens.weight",
        ),
        (["layers", "lm_haed"], "'lm_haed' matches no parameter"),
        (["."], "leave no parameter to train"),
    ],
)
def test_freezing_nothing_or_everything_is_an_error(
    make_run: MakeRun, patterns: list[str], named: str
) -> None:
    with pytest.raises(UserError, match=named):
        train(make_run(freeze=patterns))


def test_the_average_is_the_published_recurrence() -> None:
    module = torch.nn.Linear(2, 2)
    average = MovingAverage(module, WeightAverage(decay=0.6))
    expected = module.weight.detach().double().clone()
    for step in range(1, 40):
        with torch.no_grad():
            module.weight.add_(step)
        average.update(step)
        decay = min(0.6, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * module.weight.detach().double()
    own = module.weight.detach().clone()
    with average.in_place():
        assert torch.allclose(module.weight.double(), expected, rtol=1e-5)
        assert not torch.equal(module.weight, own)
    assert torch.equal(module.weight, own)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stage", [0, 2])
def test_the_average_is_evaluated_or_only_kept(make_run: MakeRun, precision: str, stage: int) -> None:
    settings = {
        "precision": precision,
        "deepspeed": {"zero_optimization": {"stage": stage}},
        "learning_rate": 1e-2,
    }
    plain, averaged, kept = (
        make_run("plain", **settings),
        make_run("averaged", ema={"decay": 0.5}, **settings),
        make_run("kept", ema={"decay": 0.5, "evaluated": False}, **settings),
    )
    for run in (plain, averaged, kept):
        train(run)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    shadow = load_file(last_step(averaged) / "average.safetensors")
    for name, tensor in weights(averaged).items():
        assert torch.equal(tensor, shadow[f"network.{name}"].to(dtype)), name
        assert torch.equal(weights(kept)[name], weights(plain)[name]), name
    assert all(tensor.dtype == torch.float32 for tensor in shadow.values())
    assert any(not torch.equal(tensor, weights(plain)[name]) for name, tensor in weights(averaged).items())
    logs = [run.folder / "train.jsonl" for run in (plain, averaged, kept)]
    last = [path.read_text().splitlines()[-1] for path in logs]
    losses = [json.loads(line) for line in last]
    assert losses[0]["loss"] == losses[1]["loss"] == losses[2]["loss"], "averaging changes no step"
    assert losses[0]["held_out_loss"] == losses[2]["held_out_loss"] != losses[1]["held_out_loss"]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"ema": {}, "deepspeed": {"zero_optimization": {"stage": 3}}}, "ema needs whole weights"),
        ({"freeze": ["a"], "lora": {}}, "freeze has no effect beside lora"),
        ({"freeze": ["("]}, r"freeze: '\(' is no regular expression"),
        ({"lora": {"targets": "("}}, r"lora\.targets: '\(' is no regular expression"),
        ({"adam_betas": [0.9, 1.0]}, r"adam_betas\.1\n.*less than 1"),
        ({"master_weights": False}, "master_weights: false has an effect with precision bf16 only"),
        ({"trackers": ["wandb", "wandb"]}, "name each once"),
        ({"deepspeed": {"zero_optimization": {"offload_optimizer": True}}}, "offload_optimizer needs stage"),
        (
            {"deepspeed": {"zero_optimization": {"stage": 2, "offload_parameters": True}}},
            "offload_parameters needs stage 3",
        ),
        ({"checkpoint": {"keep_every": 5}}, "keep_every 5 is not a multiple of every"),
        ({"checkpoint": {"every": 2, "keep_every": 5}}, "keep_every 5 is not a multiple of every"),
    ],
)
def test_options_that_would_do_nothing_are_refused(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Train.model_validate({"objective": {"name": "llada"}, "steps": 1} | settings)
