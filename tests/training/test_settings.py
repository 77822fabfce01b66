"""Learning rates and batch shapes."""

from __future__ import annotations

import pytest

from opendllm.core.manifest.schema import Train
from opendllm.core.training.settings import batch_shape, learning_rate
from opendllm.registries.errors import UserError


def settings(**changes: object) -> Train:
    content = {"objective": {"name": "llada"}, "steps": 100, "learning_rate": 1.0, "final_learning_rate": 0.1}
    return Train.model_validate(content | changes)


def test_the_rate_rises_linearly_then_falls_to_its_final_value() -> None:
    train = settings(warmup_ratio=0.1)
    assert [learning_rate(train, step) for step in (1, 5, 10)] == pytest.approx([0.1, 0.5, 1.0])
    assert learning_rate(train, 55) == pytest.approx(0.55)
    assert learning_rate(train, 100) == pytest.approx(0.1)


def test_linear_and_constant_decay() -> None:
    assert learning_rate(settings(decay="linear"), 50) == pytest.approx(0.55)
    assert learning_rate(settings(decay="constant"), 100) == 1.0


def test_without_warmup_the_first_step_has_almost_the_peak_rate() -> None:
    assert learning_rate(settings(), 1) > 0.99


def test_rows_are_shared_out_over_ranks_and_micro_batches() -> None:
    assert batch_shape(settings(global_batch_size=16), 2) == (8, 1)
    assert batch_shape(settings(global_batch_size=16, micro_batch_size=2), 2) == (2, 4)
    with pytest.raises(
        UserError, match=r"leaves 8 rows each, which train.micro_batch_size 16 does not divide"
    ):
        batch_shape(settings(global_batch_size=16, micro_batch_size=16), 2)
    with pytest.raises(UserError, match="does not divide by 3 processes"):
        batch_shape(settings(global_batch_size=16), 3)
