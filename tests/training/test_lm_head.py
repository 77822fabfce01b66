"""The LM head's losses under DeepSpeed."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from opendllm.core.training.trainer import TrainingRun, train


@pytest.mark.parametrize("backbone", ["llada", "open-dcoder"], ids=["untied", "tied"])
def test_a_partitioned_head_computes_the_losses_of_a_whole_one(
    make_run: Callable[..., TrainingRun], backbone: str
) -> None:
    curves = []
    for stage in (0, 3):
        settings = {"zero_optimization": {"stage": stage}}
        run = make_run(f"stage-{stage}", backbone, "mdlm", steps=2, deepspeed=settings)
        train(run)
        lines = [json.loads(line) for line in (run.folder / "train.jsonl").read_text().splitlines()]
        curves.append([line["loss"] for line in lines if "loss" in line])
    assert curves[0] == pytest.approx(curves[1], rel=1e-5)
