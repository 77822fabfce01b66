"""A run goes on with what it was trained on, or says that it can't."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from opendllm.core.training.trainer import TrainingRun, train
from opendllm.core.training.weight_checks import NonFiniteLossError
from opendllm.registries.errors import UserError

MakeRun = Callable[..., TrainingRun]


def test_a_resume_on_other_tokens_is_refused(make_run: MakeRun) -> None:
    first = replace(make_run(steps=1), provenance={"data": "one"})
    train(first)
    with pytest.raises(UserError, match=r"step-1 was trained on other tokens"):
        train(replace(make_run(steps=2), provenance={"data": "two"}))
    train(replace(make_run(steps=2), provenance={"data": "one"}))


@pytest.mark.parametrize("value", ["inf", "nan"])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_gradients_that_are_not_finite_stop_the_run_and_are_not_saved(
    make_run: MakeRun, stage: int, value: str
) -> None:
    run = make_run(steps=3, checkpoint={"every": 1}, deepspeed={"zero_optimization": {"stage": stage}})
    calls = 0

    def poison(gradient: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return gradient * float(value) if calls == 2 else gradient

    next(iter(run.lm.module.parameters())).register_hook(poison)
    with pytest.raises(NonFiniteLossError, match="the gradients of step 2 are not finite"):
        train(run)
    assert [path.name for path in (run.folder / "checkpoints").iterdir()] == ["step-1"]


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_every_stage_logs_the_same_gradient_norm(make_run: MakeRun, stage: int) -> None:
    run = make_run(steps=2, deepspeed={"zero_optimization": {"stage": stage}})
    train(run)
    lines = [json.loads(line) for line in (run.folder / "train.jsonl").read_text().splitlines()]
    norms = [line["gradient_norm"] for line in lines if "gradient_norm" in line]
    plain = make_run("plain", steps=2)
    train(plain)
    expected = [
        json.loads(line).get("gradient_norm")
        for line in (plain.folder / "train.jsonl").read_text().splitlines()
    ][1:]
    assert norms == pytest.approx(expected, rel=1e-4)
