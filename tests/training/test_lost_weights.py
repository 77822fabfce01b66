"""A step that broke the weights is neither saved nor shown; every step that is taken changes something."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from opendllm.core.checkpoints.files import steps
from opendllm.core.foundation.notices import warn_once
from opendllm.core.training.trainer import TrainingRun, train
from opendllm.core.training.weight_checks import NonFiniteLossError

from .methods import documents_of

MakeRun = Callable[..., TrainingRun]
# Finite weights, of which no loss can be computed.
WRECKING: dict[str, Any] = {"learning_rate": 1e30, "gradient_clipping": 0.0, "decay": "constant"}


def saved_steps(run: TrainingRun) -> list[int]:
    return [step for step, _ in steps(run.folder)]


def log(run: TrainingRun) -> str:
    return (run.folder / "train.jsonl").read_text()


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_last_step_that_breaks_the_weights_is_not_saved(make_run: MakeRun, stage: int) -> None:
    run = make_run(steps=1, deepspeed={"zero_optimization": {"stage": stage}}, **WRECKING)
    with pytest.raises(NonFiniteLossError, match=r"held-out loss after step 1 is (nan|inf).*did not save"):
        train(run)
    assert saved_steps(run) == []
    assert "NaN" not in log(run)
    assert "Infinity" not in log(run)
    assert [json.loads(line)["step"] for line in log(run).splitlines()] == [0]


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_a_step_in_between_that_breaks_the_weights_is_not_saved(make_run: MakeRun, stage: int) -> None:
    """The held-out loss isn't measured there, and the weights are finite: 1e30."""
    settings = {"steps": 4, "checkpoint": {"every": 1}, "deepspeed": {"zero_optimization": {"stage": stage}}}
    run = make_run(**settings, **WRECKING)
    with pytest.raises(NonFiniteLossError, match=r"loss of the weights after step 1 is (nan|inf)"):
        train(run)
    assert saved_steps(run) == []


@pytest.mark.parametrize("stage", [0, 1, 3])
def test_one_weight_that_is_lost_is_seen(make_run: MakeRun, stage: int) -> None:
    """The embedding of a token that no row holds, in a model whose head is another matrix: no loss knows."""

    def break_one(step: int, loss: float, speed: float) -> None:
        if step == 1:
            parameter = run.lm.network.get_input_embeddings().weight
            share = parameter.ds_tensor if hasattr(parameter, "ds_tensor") else parameter
            with torch.no_grad():
                share.view(-1)[unread * run.lm.network.config.hidden_size] = float("nan")

    zero = {"zero_optimization": {"stage": stage}}
    run = make_run(
        backbone="llada",
        objective="llada",
        on_step=break_one,
        steps=2,
        checkpoint={"every": 1},
        freeze=["embed_tokens"],
        deepspeed=zero,
    )
    assert run.lm.network.get_input_embeddings().weight is not run.lm.network.get_output_embeddings().weight
    rows = (documents_of(run).train_rows, documents_of(run).held_out_rows)
    read = {int(token) for part in rows for token in part.batch(range(32)).tokens.unique()}
    unread = next(token for token in range(run.lm.vocab_size) if token not in {*read, run.lm.mask_token_id})
    with pytest.raises(NonFiniteLossError, match="the weights after step 2 are not finite"):
        train(run)
    assert saved_steps(run) == [1]


def test_an_average_does_not_hide_the_weights(make_run: MakeRun) -> None:
    run = make_run(steps=2, ema={"decay": 0.999}, checkpoint={"every": 1}, **WRECKING)
    with pytest.raises(NonFiniteLossError):
        train(run)
    assert saved_steps(run) == []


def test_a_single_step_learns(make_run: MakeRun) -> None:
    start = make_run("start").lm.module.state_dict()
    run = make_run(steps=1)
    train(run)
    trained = load_file(steps(run.folder)[-1][1] / "model" / "model.safetensors")
    assert all(not torch.equal(tensor, start[f"network.{name}"]) for name, tensor in trained.items())
    line = json.loads(log(run).splitlines()[-1])
    assert line["learning_rate"] == 1e-3


def test_a_model_that_gives_no_numbers_is_not_trained(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run()
    with torch.no_grad():
        run.lm.network.get_input_embeddings().weight.fill_(float("nan"))
    with pytest.raises(NonFiniteLossError, match="before the first step"):
        train(run)
    assert log(run) == ""


@pytest.mark.parametrize("stage", [1, 3])
@pytest.mark.parametrize(("rate", "warned"), [(1e-6, True), (1e-2, False)])
def test_a_rate_that_bf16_cannot_follow_is_told_with_the_share_that_moved(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str], stage: int, rate: float, warned: bool
) -> None:
    warn_once.cache_clear()
    settings: dict[str, Any] = {
        "precision": "bf16",
        "master_weights": False,
        "learning_rate": rate,
        "steps": 2,
        "decay": "constant",
        "deepspeed": {"zero_optimization": {"stage": stage}},
    }
    one_step = make_run("one", **settings | {"steps": 1})
    start = {name: tensor.bfloat16() for name, tensor in one_step.lm.module.state_dict().items()}
    train(one_step)
    said = [line for line in capsys.readouterr().err.splitlines() if "master_weights" in line]
    if not warned:
        assert said == []
        return
    trained = load_file(steps(one_step.folder)[-1][1] / "model" / "model.safetensors")
    pairs = [(tensor, start[f"network.{name}"]) for name, tensor in trained.items()]
    moved = sum(int((new != old).sum()) for new, old in pairs) / sum(new.numel() for new, _ in pairs)
    assert len(said) == 1
    assert f"step 1 at learning rate 1e-06 moved {moved:.1%} of the weights" in said[0]
    assert moved < 0.5
