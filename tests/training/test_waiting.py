"""What a step doesn't wait for, and that it computes the same all the same."""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from opendllm.core.launching.watchdog import Watchdog
from opendllm.core.networks.attention import AttentionLayout
from opendllm.core.networks.scoring_module import ScoringModule
from opendllm.core.toolkit.segments import document_positions
from opendllm.core.training import documents, engine, trainer
from opendllm.core.training.deepspeed_environment import deepspeed_environment
from opendllm.core.training.trained_weights import TrainedWeights
from opendllm.core.training.trainer import TrainingRun, train
from opendllm.registries.sequences import ModelInputs

MakeRun = Callable[..., TrainingRun]
MOST = 16.0
"""Some steps' gradients are longer, some shorter; one has less than twice that."""


@pytest.mark.parametrize(("stage", "precision"), [(1, "fp32"), (1, "bf16"), (3, "fp32")])
def test_the_norm_of_few_kernels_and_its_clipping_are_deepspeeds(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, stage: int, precision: str
) -> None:
    found = []
    for own in (True, False):
        if not own:
            monkeypatch.setattr(engine, "norm_in_few_kernels", lambda optimizer: None)
        run = make_run(
            f"own-{own}", gradient_clipping=MOST, precision=precision, adam_epsilon=1.0, learning_rate=0.3,
            deepspeed={"zero_optimization": {"stage": stage}},
        )  # fmt: skip
        train(run)
        lines = [json.loads(line) for line in (run.folder / "train.jsonl").read_text().splitlines()][1:]
        found.append([line[key] for line in lines for key in ("loss", "gradient_norm")])
    assert min(found[0][1::2]) < MOST < max(found[0][1::2])
    assert found[0] == pytest.approx(found[1], rel=1e-5 if precision == "fp32" else 1e-3)


@pytest.mark.parametrize("stage", [1, 3])
def test_each_micro_batch_is_read_ahead_once_and_not_again_by_its_pass(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, stage: int
) -> None:
    read: list[int] = []
    once = ScoringModule._read

    def counted(module: ScoringModule, inputs: ModelInputs, scored: torch.Tensor) -> Any:
        read.append(len(scored))
        return once(module, inputs, scored)

    monkeypatch.setattr(ScoringModule, "_read", counted)
    worked_out: list[AttentionLayout] = []
    monkeypatch.setattr(AttentionLayout, "work_out", lambda layout: worked_out.append(layout))
    zero = {"zero_optimization": {"stage": stage}}
    train(make_run(steps=2, micro_batch_size=2, deepspeed=zero))
    assert read == [2] * 8
    assert len(worked_out) == 8


def test_what_layers_ask_of_a_layout_is_kept_for_its_pass_alone(make_run: MakeRun) -> None:
    """A mask of all pairs, say, of each micro-batch of a step."""
    module = make_run().lm.module
    assert isinstance(module, ScoringModule)
    tokens = torch.arange(1, 33).reshape(2, 16)
    inputs = ModelInputs(tokens, torch.zeros_like(tokens), document_positions(torch.zeros_like(tokens)))
    scored = torch.ones_like(tokens, dtype=torch.bool)
    module.read_ahead(inputs, scored)
    [layout] = [weakref.ref(ahead.layout) for ahead in module._ahead.values()]
    module(inputs, tokens, scored, lambda nll, _chosen: nll.sum()).backward()
    gc.collect()
    assert layout() is None


def test_other_rows_with_the_same_scored_positions_are_read_anew(make_run: MakeRun) -> None:
    module = make_run().lm.module
    assert isinstance(module, ScoringModule)
    tokens = torch.arange(1, 33).reshape(2, 16)
    scored = torch.ones_like(tokens, dtype=torch.bool)

    def rows(segments: torch.Tensor) -> ModelInputs:
        return ModelInputs(tokens, segments, document_positions(segments))

    whole, halves = rows(torch.zeros_like(tokens)), rows((torch.arange(16) >= 8).long().expand(2, 16))
    wanted = module(halves, tokens, scored, lambda nll, _chosen: nll.sum())
    module.read_ahead(whole, scored)
    assert torch.equal(module(halves, tokens, scored, lambda nll, _chosen: nll.sum()), wanted)
    assert not torch.equal(module(whole, tokens, scored, lambda nll, _chosen: nll.sum()), wanted)


def test_the_watchdog_is_told_of_steps_measurements_and_saves(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that none of them is taken for something stuck."""
    told: list[str] = []

    def within(name: str) -> Callable[..., Any]:
        usual = getattr(Watchdog, name)

        @contextmanager
        def entered(*arguments: Any) -> Iterator[None]:
            told.append(name)
            with usual(*arguments):
                yield
            told.append(f"not {name}")

        return entered

    def expect(watchdog: Watchdog, seconds: float) -> None:
        assert seconds > 0
        told.append("step")

    monkeypatch.setattr(Watchdog, "measuring", within("measuring"))
    monkeypatch.setattr(Watchdog, "saving", within("saving"))
    monkeypatch.setattr(Watchdog, "expect", expect)
    for module, name in ((documents, "held_out_loss"), (trainer, "save_step")):
        work = getattr(module, name)

        def noted(*arguments: Any, name: str = name, work: Any = work, **named: Any) -> Any:
            told.append(name)
            return work(*arguments, **named)

        monkeypatch.setattr(module, name, noted)
    train(make_run(steps=1))
    measured = ["measuring", "held_out_loss", "not measuring"]
    a_look = ["held_out_loss"]  # of one row, shorter than the step before it
    assert told == [*measured, "step", *measured, *a_look, "saving", "save_step", "not saving"]


@pytest.mark.parametrize(("device", "rows"), [("cuda", 4), ("cpu", 0)])
def test_a_gpu_measures_twice_as_many_rows_at_once_as_it_trains(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, device: str, rows: int
) -> None:
    asked: list[int] = []

    def held_out_loss(*arguments: Any) -> float:
        asked.append(arguments[4])
        return 1.0

    monkeypatch.setattr(documents, "held_out_loss", held_out_loss)
    run = make_run(micro_batch_size=2)
    taken_by: Any = run.method.steps_of(run, TrainedWeights(run.lm, None, None))
    taken_by._engine = SimpleNamespace(device=torch.device(device))
    assert taken_by.measured(0, last=False, saving=False) == {"held_out_loss": 1.0}
    assert asked == [rows]


@pytest.mark.parametrize(
    ("on_gpu", "offload", "fused"), [(True, False, True), (True, True, None), (False, False, None)]
)
def test_adamw_is_one_kernel_where_its_state_lies_on_a_gpu(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, on_gpu: bool, offload: bool, fused: bool | None
) -> None:
    chosen: list[Any] = []

    class MadeError(Exception):
        pass

    def made(*_: Any, fused: bool | None, **__: Any) -> None:
        chosen.append(fused)
        raise MadeError

    with deepspeed_environment():
        import deepspeed  # noqa: F401  (it has AdamWs of its own, derived from torch's)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: on_gpu)
    monkeypatch.setattr(torch.optim, "AdamW", made)
    zero = {"zero_optimization": {"stage": 1, "offload_optimizer": offload}}
    run = make_run(deepspeed=zero)
    with pytest.raises(MadeError), engine.started_engine(run.lm.module, run.settings, 8, 1):
        pass
    assert chosen == [fused]
