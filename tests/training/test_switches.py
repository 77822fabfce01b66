"""Switches of speed and memory: what they may change, and what they must not."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from opendllm.core.checkpoints.files import steps
from opendllm.core.training import decoder_layers
from opendllm.core.training.held_out import held_out_loss
from opendllm.core.training.trainer import TrainingRun, train
from opendllm.core.training.weight_checks import NonFiniteLossError
from opendllm.plugins.backbones.presets import LLADA
from opendllm.registries.errors import UserError
from opendllm.registries.objectives import Corruption

from .methods import documents_of

MakeRun = Callable[..., TrainingRun]


def losses(run: TrainingRun) -> list[float]:
    lines = [json.loads(line) for line in (run.folder / "train.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def weights(run: TrainingRun) -> dict[str, torch.Tensor]:
    return load_file(steps(run.folder)[-1][1] / "model" / "model.safetensors")


def engine_state(run: TrainingRun) -> dict[str, Any]:
    """Of a checkpoint at ZeRO 1: the optimizer's part."""
    [path] = (steps(run.folder)[-1][1] / "deepspeed").glob("*optim_states.pt")
    state: dict[str, Any] = torch.load(path, weights_only=False)["optimizer_state_dict"]
    return state


def zero(stage: int, **options: bool) -> dict[str, Any]:
    return {"deepspeed": {"zero_optimization": {"stage": stage, **options}}}


@pytest.mark.parametrize("stage", [0, 3])
def test_activation_checkpointing_recomputes_and_changes_nothing(make_run: MakeRun, stage: int) -> None:
    calls = {}
    curves = []
    for name, on in (("plain", False), ("checkpointed", True)):
        run = make_run(name, activation_checkpointing=on, **zero(stage))
        counted = 0

        def count(*_: Any) -> None:
            nonlocal counted
            counted += 1

        layer = next(m for n, m in run.lm.module.named_modules() if n.endswith("layers.0.self_attn.q_proj"))
        layer.register_forward_hook(count)
        train(run)
        calls[name] = counted
        curves.append(losses(run))
    assert curves[1] == pytest.approx(curves[0], rel=1e-6)
    assert calls["checkpointed"] > calls["plain"], "nothing was computed twice"


def test_a_loaded_network_trains_as_a_built_one_does_also_when_it_goes_on(make_run: MakeRun) -> None:
    """What is loaded comes in evaluation mode, in which nothing is dropped out or checkpointed."""
    modes: list[bool] = []

    def cut(step: int, loss: float, speed: float) -> None:
        modes.append(run.lm.network.get_decoder().layers[0].training)
        if step == 3 and len(modes) == 3:
            raise KeyboardInterrupt

    run = make_run(on_step=cut, checkpoint={"every": 2})
    with pytest.raises(KeyboardInterrupt):
        train(run)
    run = make_run(on_step=cut, checkpoint={"every": 2})
    run.lm.network.eval()
    train(run)
    assert modes == [True] * 5


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(
    "besides",
    [{}, {"activation_checkpointing": True}, zero(3), {"lora": {"rank": 2}, **zero(3)}],
    ids=str,
)
def test_compiling_changes_nothing_but_rounding(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, besides: dict[str, Any]
) -> None:
    """What one layer is compiled to serves all of them."""
    # Everything but the C++ that it would write, which takes a minute and more.
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    decoder_layers._compiled_function.cache_clear()
    torch._dynamo.reset()
    if "deepspeed" in besides and "lora" not in besides:
        # More than torch.compile has forms of one function, beyond which it leaves the rest uncompiled.
        monkeypatch.setitem(LLADA["nano"], "n_layers", torch._dynamo.config.recompile_limit + 1)
    plain, compiled = (
        make_run("plain", "llada", steps=2, **besides),
        make_run("compiled", "llada", steps=2, compile=True, **besides),
    )
    train(plain)
    torch._dynamo.utils.counters.clear()
    train(compiled)
    counted = torch._dynamo.utils.counters
    assert counted["frames"]["ok"] > 0, "nothing was compiled"
    assert counted["stats"]["unique_graphs"] <= 4, "each layer was compiled anew"
    assert losses(compiled) == pytest.approx(losses(plain), rel=1e-4)
    assert set(weights(compiled)) == set(weights(plain))


@pytest.mark.parametrize(
    "besides", [{}, {"lora": {"rank": 2}}, {"freeze": ["embed_tokens", r"layers\.0\."]}], ids=str
)
def test_under_zero_3_a_layer_is_fetched_as_one_whatever_is_trained(
    make_run: MakeRun, besides: dict[str, Any]
) -> None:
    """DeepSpeed's hooks are on the layer, so that its parts can be compiled and fetch nothing one by one."""
    hooked: list[bool] = []

    def look(*_: float) -> None:
        for layer in fetched.lm.network.get_decoder().layers:
            inner = [part for part in layer.modules() if part is not layer]
            hooked.append(bool(layer._forward_pre_hooks) and not any(p._forward_pre_hooks for p in inner))

    fetched, plain = (
        make_run("fetched", on_step=look, **besides, **zero(3)),
        make_run("plain", **besides, **zero(1)),
    )
    train(fetched)
    train(plain)
    assert hooked
    assert all(hooked)
    assert losses(fetched) == pytest.approx(losses(plain), rel=1e-5)


def test_layers_within_layers_are_not_counted_again() -> None:
    class Inner(torch.nn.Module):
        pass

    class Outer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Inner()

    class Network(torch.nn.Module):
        _no_split_modules = ("Outer", "Inner")

        def __init__(self) -> None:
            super().__init__()
            self.layers = torch.nn.ModuleList([Outer(), Outer()])
            self.layers_beside = Inner()

    network = Network()
    assert decoder_layers.decoder_layers(network) == [*network.layers, network.layers_beside]


def test_compiling_without_a_compiler_is_an_error(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match=r"train\.compile: torch\.compile lacks a C\+\+ compiler"):
        train(make_run(compile=True))


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_bf16_computes_the_same_at_every_stage(make_run: MakeRun, stage: int) -> None:
    first, run = make_run("first", precision="bf16", **zero(1)), make_run(precision="bf16", **zero(stage))
    train(first)
    train(run)
    assert losses(run) == pytest.approx(losses(first), rel=1e-5)
    assert losses(run) == pytest.approx(losses_in_float32(make_run), rel=0.03)


def losses_in_float32(make_run: MakeRun) -> list[float]:
    run = make_run("float32")
    train(run)
    return losses(run)


def test_master_weights_are_float32_or_not_there(make_run: MakeRun) -> None:
    settings = {"precision": "bf16", "learning_rate": 1e-5, "steps": 6}
    with_them, without = make_run("with", **settings), make_run("without", master_weights=False, **settings)
    start = {name: p.clone() for name, p in make_run("start").lm.module.state_dict().items()}
    moved = {}
    for run in (with_them, without):
        train(run)
        state = engine_state(run)
        dtype = torch.float32 if run is with_them else torch.bfloat16
        [master, *_] = state["single_partition_of_fp32_groups"]
        moments = state["base_optimizer_state"]["state"][0]
        assert {master.dtype, moments["exp_avg"].dtype, moments["exp_avg_sq"].dtype} == {dtype}
        moved[run.folder.name] = sum(
            int((tensor != start[f"network.{name}"].bfloat16()).sum())
            for name, tensor in weights(run).items()
        )
    # Steps of 1e-5 are lost on a bf16 weight of ordinary size; a float32 one adds them up.
    assert moved["with"] > 1.3 * moved["without"] > 0


@pytest.mark.parametrize(
    ("stage", "options"),
    [
        (1, {"offload_optimizer": True}),
        (2, {"offload_optimizer": True}),
        (3, {"offload_optimizer": True, "offload_parameters": True}),
    ],
)
def test_offloading_changes_nothing_and_goes_on_bit_equal(
    make_run: MakeRun, stage: int, options: dict[str, bool]
) -> None:
    settings = {"checkpoint": {"every": 2}, **zero(stage, **options)}
    plain, whole = make_run("plain", **zero(stage)), make_run("whole", **settings)
    train(plain)
    train(whole)
    assert losses(whole) == pytest.approx(losses(plain), rel=1e-6)

    def cut(step: int, loss: float, speed: float) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(make_run("cut", on_step=cut, **settings))
    resumed = make_run("cut", **settings)
    train(resumed)
    assert losses(resumed) == losses(whole)
    assert all(torch.equal(tensor, weights(whole)[name]) for name, tensor in weights(resumed).items())


@pytest.mark.parametrize("master_weights", [True, False])
def test_bf16_gradients_that_are_not_finite_stop_the_run(make_run: MakeRun, master_weights: bool) -> None:
    settings = {"precision": "bf16", "master_weights": master_weights, "checkpoint": {"every": 1}}
    run = make_run(steps=3, **settings)
    calls = 0

    def poison(gradient: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return gradient * float("nan") if calls == 2 else gradient

    next(iter(run.lm.module.parameters())).register_hook(poison)
    with pytest.raises(NonFiniteLossError, match="the gradients of step 2 are not finite"):
        train(run)
    assert [step for step, _ in steps(run.folder)] == [1]


def test_accumulation_holds_under_partitioned_gradients(make_run: MakeRun) -> None:
    curves = []
    for micro in (8, 2):
        run = make_run(f"micro-{micro}", micro_batch_size=micro, **zero(2))
        train(run)
        curves.append(losses(run))
    assert curves[1] == pytest.approx(curves[0], rel=1e-5)


def test_measuring_keeps_no_second_model_and_leaves_the_model_training(make_run: MakeRun) -> None:
    run = make_run(ema={"decay": 0.5}, held_out={"rows": 2, "draws": 16, "every": 1})
    seen: list[tuple[int, bool]] = []
    pointers = {parameter.data_ptr() for parameter in run.lm.module.parameters()}

    def look(network: torch.nn.Module, *_: Any) -> None:
        if not network.training:
            seen.append((len({p.data_ptr() for p in network.parameters()} - pointers), network.training))

    run.lm.network.get_decoder().register_forward_hook(look)
    train(run)
    assert seen
    assert all(new == 0 for new, _ in seen), "the measured weights are not the trained ones' memory"
    assert run.lm.module.training
    again = held_out_loss(run.lm, documents_of(run).held_out_rows, run.settings.held_out)
    assert again == held_out_loss(run.lm, documents_of(run).held_out_rows, run.settings.held_out)


def test_the_held_out_loss_says_how_many_rows_are_read_and_is_the_same(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Part by part, where not all rows go through the model at once."""
    run = make_run(held_out={"rows": 5, "draws": 16})
    length = documents_of(run).held_out_rows.batch(range(1)).tokens.shape[1]
    told: list[tuple[int, int]] = []

    def measured(rows_at_once: int = 0) -> float | None:
        told.clear()
        return held_out_loss(
            run.lm,
            documents_of(run).held_out_rows,
            run.settings.held_out,
            lambda *counts: told.append(counts),
            rows_at_once,
        )

    whole = measured()
    assert told == []  # one pass, of which there is nothing to tell
    for module in ("opendllm.core.training.held_out", "opendllm.core.toolkit.likelihood"):
        monkeypatch.setattr(f"{module}.TOKENS_AT_ONCE", 2 * length)
    assert measured() == pytest.approx(whole, rel=1e-6)
    total = min(5, len(documents_of(run).held_out_rows))
    assert told == [(min(done, total), total) for done in range(2, total + 2, 2)]
    assert len(told) > 1
    passes: list[int] = []
    run.lm.network.get_decoder().register_forward_hook(lambda *_: passes.append(1))
    assert measured() == pytest.approx(whole, rel=1e-6)
    few = len(passes)
    assert measured(rows_at_once=total) == pytest.approx(whole, rel=1e-6)
    assert told == []
    assert len(passes) - few < few, "more rows at once take fewer passes"


def test_the_step_that_fails_is_not_counted_into_the_average(make_run: MakeRun) -> None:
    run = make_run(ema={"decay": 0.5}, checkpoint={"every": 1})

    class Breaking(type(documents_of(run).objective)):  # type: ignore[misc]
        def loss_sum(self, negative_log_likelihood: torch.Tensor, corruption: Corruption) -> torch.Tensor:
            loss = super().loss_sum(negative_log_likelihood, corruption)
            return loss * float("nan") if steps(run.folder) else loss

    documents_of(run).objective.__class__ = Breaking
    with pytest.raises(NonFiniteLossError):
        train(run)
    before: Path = steps(run.folder)[-1][1]
    assert before.name == "step-1"
