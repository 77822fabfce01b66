"""Learning rates and batch shapes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from opendllm.core.experiment import run_experiment
from opendllm.core.manifest.experiment_manifest import experiment_of
from opendllm.core.manifest.train_schema import Train
from opendllm.core.training.settings import batch_shape, learning_rate
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.errors import UserError
from tests.tiny_checkpoint import tiny_manifest


def settings(**changes: object) -> Train:
    content = {"objective": {"name": "llada"}, "steps": 100, "learning_rate": 1.0, "final_learning_rate": 0.1}
    return Train.model_validate(content | changes)


def test_the_rate_rises_linearly_then_falls_to_its_final_value() -> None:
    train = settings(warmup_ratio=0.1)
    assert [learning_rate(train, step) for step in (1, 5, 10)] == pytest.approx([0.1, 0.5, 1.0])
    assert learning_rate(train, 11) == pytest.approx(1.0)
    assert learning_rate(train, 56) == pytest.approx(0.55)
    assert 0.1 < learning_rate(train, 100) < 0.101


def test_linear_and_constant_decay() -> None:
    assert learning_rate(settings(decay="linear"), 51) == pytest.approx(0.55)
    assert learning_rate(settings(decay="constant"), 100) == 1.0


@pytest.mark.parametrize("decay", ["cosine", "linear", "constant"])
@pytest.mark.parametrize("warmup", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 3, 100])
def test_no_step_is_taken_at_rate_zero(decay: str, warmup: float, steps: int) -> None:
    train = settings(decay=decay, warmup_ratio=warmup, steps=steps, final_learning_rate=0.0)
    rates = [learning_rate(train, step) for step in range(1, steps + 1)]
    assert all(0 < rate <= 1 for rate in rates)
    assert max(rates) == 1.0, "the peak is reached"


def test_the_rates_are_those_of_transformers() -> None:
    """Its cosine schedule, without warm-up, at steps counted from 0."""
    from torch.optim import SGD
    from transformers import get_cosine_schedule_with_warmup

    optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = get_cosine_schedule_with_warmup(optimizer, 0, 7)
    theirs = []
    for _ in range(7):
        theirs += schedule.get_last_lr()
        optimizer.step()
        schedule.step()
    train = settings(steps=7, final_learning_rate=0.0)
    assert [learning_rate(train, step) for step in range(1, 8)] == pytest.approx(theirs)


def test_rows_are_shared_out_over_ranks_and_micro_batches() -> None:
    assert batch_shape(settings(global_batch_size=16), 2) == (8, 1)
    assert batch_shape(settings(global_batch_size=16, micro_batch_size=2), 2) == (2, 4)
    with pytest.raises(
        UserError, match=r"leaves 8 rows each, which train.micro_batch_size 16 does not divide"
    ):
        batch_shape(settings(global_batch_size=16, micro_batch_size=16), 2)
    with pytest.raises(UserError, match="does not divide by 3 processes"):
        batch_shape(settings(global_batch_size=16), 3)


def test_rows_beyond_the_models_context_are_refused(tmp_path: Path) -> None:
    """A rotary model would learn them and never be asked there; one with learnt positions has none."""
    manifest = tiny_manifest(tmp_path)
    manifest["data"]["sequence_length"] = 2049
    manifest["train"] = {"objective": {"name": "llada"}, "steps": 1}
    experiment = experiment_of(manifest, "a test", "only", installed_plugins())
    with pytest.raises(UserError, match=r"sequence_length is 2049, the model's context 2048"):
        run_experiment(experiment, ["train"])
