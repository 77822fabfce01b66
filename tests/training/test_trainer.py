"""The loop: what it computes does not depend on how a step is cut up, partitioned or interrupted."""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from opendllm.core.checkpoints.families import backbone_of
from opendllm.core.checkpoints.files import CHECKPOINTS_FOLDER, steps
from opendllm.core.checkpoints.loading import load_checkpoint
from opendllm.core.training.trainer import TrainingRun, train
from opendllm.core.training.weight_checks import NonFiniteLossError
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.noise_schedules import NoiseSchedule
from opendllm.registries.objectives import Corruption, Masking, Noise, Objective
from opendllm.registries.sequences import PADDING_SEGMENT, ModelInputs, TokenRows

from .methods import documents_of, learning

MakeRun = Callable[..., TrainingRun]


def losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(steps(folder)[-1][1] / "model" / "model.safetensors")


def test_the_loss_falls_and_every_line_says_what_it_must(make_run: MakeRun) -> None:
    run = make_run(steps=30, objective="mdlm", learning_rate=3e-3)
    train(run)
    found = losses(run.folder)
    assert sum(found[-5:]) < 0.8 * sum(found[:5])
    lines = [json.loads(line) for line in (run.folder / "train.jsonl").read_text().splitlines()]
    assert lines[0]["step"] == 0
    assert lines[-1]["held_out_loss"] < lines[0]["held_out_loss"]
    for line in lines[1:]:
        assert {"step", "loss", "learning_rate", "tokens", "tokens_per_second"} <= set(line)
        assert line["processes"] == 1
        assert line["peak_memory_bytes"] > 50_000_000
    assert [line["step"] for line in lines] == list(range(31))


class BothHalves(Objective):
    """Each row twice: what one copy masks the other shows."""

    def mask(self, rows: TokenRows, noise: Noise, schedule: NoiseSchedule) -> Masking:
        hidden = rows.maskable & (noise.per_token("mask") < 0.5)
        parts = (rows.tokens, rows.segments, rows.positions, rows.maskable, rows.sample_index)
        twice = TokenRows(*(torch.cat([part, part]) for part in parts))
        half = torch.full(twice.tokens.shape, 0.5, dtype=torch.float64)
        return Masking(torch.cat([hidden, rows.maskable & ~hidden]), half, half, twice)

    def corrupt(self, masking: Masking, schedule: NoiseSchedule, mask_token_id: int) -> Corruption:
        rows, masked = masking.rows, masking.masked
        tokens = torch.where(masked, mask_token_id, rows.tokens)
        weight = torch.ones(int(masked.sum()))
        inputs = ModelInputs(tokens, rows.segments, rows.positions)
        return Corruption(inputs, rows.tokens, masked, weight, masked.sum().double())


def test_tokens_are_the_datas_whatever_the_objective_reads(make_run: MakeRun) -> None:
    tokens = []
    for objective, options in (("mdlm", {}), ("bd3lm", {"attention": "block-causal", "block_length": 4})):
        run = make_run(objective, "llada", objective, backbone_options=options, steps=1)
        train(run)
        tokens.append(json.loads((run.folder / "train.jsonl").read_text().splitlines()[-1])["tokens"])
    doubled = learning(make_run("twice", objective="mdlm", steps=1), objective=BothHalves())
    train(doubled)
    tokens.append(json.loads((doubled.folder / "train.jsonl").read_text().splitlines()[-1])["tokens"])
    run = make_run("count", objective="mdlm", steps=1)
    real = int((documents_of(run).train_rows.batch(range(8)).segments != PADDING_SEGMENT).sum())
    assert tokens == [real] * 3


@pytest.mark.parametrize("objective", ["open-dcoder", "llada", "dream", "mdlm"])
def test_the_loss_does_not_move_with_micro_batch_and_accumulation(make_run: MakeRun, objective: str) -> None:
    curves = []
    for micro in (8, 2):
        run = make_run(f"micro-{micro}", objective=objective, micro_batch_size=micro)
        train(run)
        curves.append(losses(run.folder))
    assert curves[0] == pytest.approx(curves[1], rel=1e-5)


def test_a_mean_over_answers_does_not_move_with_micro_batches_and_zero_stages(make_run: MakeRun) -> None:
    """CAP's, whose divisor only the model's answers tell; and it is learnt."""
    curves = {}
    for name, micro, stage, beta in (
        ("whole", 8, 1, 2),
        ("parts", 2, 1, 2),
        ("stage-3", 4, 3, 2),
        ("none", 8, 1, 0),
    ):
        zero = {"zero_optimization": {"stage": stage}}
        run = make_run(
            name, backbone="sdar", steps=6, learning_rate=5e-3, micro_batch_size=micro, deepspeed=zero
        )
        objective = installed_plugins().objectives.get("llada2").build({"confidence_beta": beta})
        train(learning(run, objective=objective))
        curves[name] = losses(run.folder)
    assert curves["parts"] == pytest.approx(curves["whole"], rel=1e-4)
    assert curves["stage-3"] == pytest.approx(curves["whole"], rel=1e-4)
    assert curves["whole"][-1] > curves["none"][-1] + 0.1


def test_every_zero_stage_computes_the_same(make_run: MakeRun) -> None:
    curves = []
    for stage in (0, 1, 2, 3):
        run = make_run(f"stage-{stage}", deepspeed={"zero_optimization": {"stage": stage}})
        train(run)
        curves.append(losses(run.folder))
        assert set(weights(run.folder)) == set(weights(run.folder.parent / "stage-0"))
    for curve in curves[1:]:
        assert curve == pytest.approx(curves[0], rel=1e-5)


@pytest.mark.parametrize("stage", [0, 1, 3])
def test_a_run_that_was_cut_off_ends_bit_equal_to_one_that_was_not(make_run: MakeRun, stage: int) -> None:
    settings = {
        "steps": 6,
        "checkpoint": {"every": 2},
        "deepspeed": {"zero_optimization": {"stage": stage}},
    }
    whole = make_run("whole", **settings)
    train(whole)

    def cut(step: int, loss: float, speed: float) -> None:
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(make_run("cut", on_step=cut, **settings))
    assert len(losses(whole.folder.parent / "cut")) == 5
    resumed = make_run("cut", **settings)
    train(resumed)
    assert losses(resumed.folder) == losses(whole.folder)
    for name, tensor in weights(whole.folder).items():
        assert torch.equal(tensor, weights(resumed.folder)[name]), name


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_nothing_is_left_of_a_trained_model(make_run: MakeRun, stage: int, precision: str) -> None:
    """The next variant's weights, and the evaluated ones, need the memory."""
    run = make_run(steps=1, precision=precision, deepspeed={"zero_optimization": {"stage": stage}})
    module = weakref.ref(run.lm.module)
    parameter = weakref.ref(next(iter(run.lm.module.parameters())))
    train(run)
    del run
    gc.collect()
    assert module() is None
    assert parameter() is None


def test_only_the_newest_checkpoints_are_kept(make_run: MakeRun) -> None:
    run = make_run(steps=5, checkpoint={"every": 1, "keep": 2})
    train(run)
    assert [step for step, _ in steps(run.folder)] == [4, 5]
    assert not list((run.folder / CHECKPOINTS_FOLDER).glob(".*"))


def test_a_checkpoint_loads_as_a_model_with_its_tokenizer(make_run: MakeRun) -> None:
    run = make_run(backbone="llada", objective="llada", steps=1)
    train(run)
    step_folder = steps(run.folder)[-1][1]
    family = backbone_of(installed_plugins(), step_folder)
    assert family.name == "llada"
    found = load_checkpoint(step_folder, family, torch.device("cpu"))
    trained = run.lm.module.state_dict()
    assert all(torch.equal(trained[name], tensor) for name, tensor in found.lm.module.state_dict().items())
    assert found.tokenizer is not None
    assert found.tokenizer.mask_token_id == found.lm.mask_token_id
    about = json.loads((step_folder / "provenance.json").read_text())
    assert about.items() >= {"made": "by a test", "step": 1, "processes": 1}.items()
    assert about["tokens"] > 0


def test_a_step_whose_loss_is_not_finite_is_neither_saved_nor_logged(make_run: MakeRun) -> None:
    run = make_run(steps=4, checkpoint={"every": 1})

    class Breaking(type(documents_of(run).objective)):  # type: ignore[misc]
        def loss_sum(self, negative_log_likelihood: torch.Tensor, corruption: Corruption) -> torch.Tensor:
            loss = Objective.loss_sum(self, negative_log_likelihood, corruption)
            if steps(run.folder) and steps(run.folder)[-1][0] == 2:
                return loss * float("nan")
            return loss

    documents_of(run).objective.__class__ = Breaking
    with pytest.raises(NonFiniteLossError, match="the loss of step 3 is nan"):
        train(run)
    assert [step for step, _ in steps(run.folder)] == [1, 2]
    assert [json.loads(line)["step"] for line in (run.folder / "train.jsonl").read_text().splitlines()] == [
        0,
        1,
        2,
    ]


def test_the_autoregressive_baseline_trains(make_run: MakeRun) -> None:
    run = make_run(objective="ar", backbone_options={"attention": "causal"}, steps=20, learning_rate=3e-3)
    train(run)
    found = losses(run.folder)
    assert found[-1] < found[0]


def test_bf16_trains(make_run: MakeRun) -> None:
    run = make_run(precision="bf16", steps=2)
    train(run)
    assert all(tensor.dtype == torch.bfloat16 for tensor in weights(run.folder).values())
    frequencies = dict(run.lm.module.named_buffers())
    assert frequencies
    assert all(buffer.dtype == torch.float32 for buffer in frequencies.values())
