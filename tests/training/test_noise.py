"""Training with noise that isn't masks: the same loop, its own bound, and a checkpoint that says which."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from opendllm.core import load
from opendllm.core.checkpoints.files import steps
from opendllm.core.training.trainer import TrainingRun, train
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.errors import UserError
from opendllm.registries.options import ObjectiveOptions
from opendllm.registries.registry import ChosenPlugin
from opendllm.registries.trained_noise import TrainedNoise

from .methods import learning

MakeRun = Callable[..., TrainingRun]
PLUGINS = installed_plugins()
NOISES: dict[str, tuple[str, dict[str, Any]]] = {
    "duo": ("loglinear", {"destination": "uniform"}),
    "udlm": ("linear", {"destination": "uniform"}),
    "gidd": ("gidd", {"p_uniform": 0.2}),
}


def noisy_run(make_run: MakeRun, objective: str, name: str = "run", **settings: Any) -> TrainingRun:
    """As a manifest makes it: the model knows what it is trained to undo."""
    run = make_run(name, objective=objective, **settings)
    schedule, options = NOISES[objective]
    registration = PLUGINS.noise_schedules.get(schedule)
    chosen = ChosenPlugin(registration, registration.options.model_validate(options))
    defaults = PLUGINS.objectives.get(objective).options()
    assert isinstance(defaults, ObjectiveOptions)
    run.lm.noise = TrainedNoise(chosen, defaults.bound)
    return learning(run, schedule=chosen.build())


def logged(folder: Path, key: str) -> list[float]:
    lines = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    return [line[key] for line in lines if key in line]


@pytest.mark.parametrize("objective", NOISES)
def test_the_bound_falls(make_run: MakeRun, objective: str) -> None:
    run = noisy_run(make_run, objective, steps=30, learning_rate=3e-3)
    train(run)
    held_out = logged(run.folder, "held_out_loss")
    assert held_out[-1] < 0.9 * held_out[0]


@pytest.mark.parametrize("objective", NOISES)
def test_the_loss_does_not_move_with_micro_batches_and_zero_stages(make_run: MakeRun, objective: str) -> None:
    curves = []
    cases: list[dict[str, Any]] = [
        {"micro_batch_size": 8},
        {"micro_batch_size": 2},
        {"micro_batch_size": 8, "deepspeed": {"zero_optimization": {"stage": 3}}},
    ]
    for number, settings in enumerate(cases):
        run = noisy_run(make_run, objective, f"run-{number}", **settings)
        train(run)
        curves.append(logged(run.folder, "loss"))
    for curve in curves[1:]:
        assert curve == pytest.approx(curves[0], rel=1e-5)


@pytest.mark.parametrize("objective", NOISES)
def test_a_checkpoint_says_what_its_likelihood_is(make_run: MakeRun, objective: str) -> None:
    run = noisy_run(make_run, objective, steps=1)
    train(run)
    folder = steps(run.folder)[-1][1] / "model"
    lm = load(folder, device="cpu")
    assert lm.lm.noise == run.lm.noise
    text = "def add(a, b):\n    return a + b\n"
    [(bound, error)] = lm.score([text], draws=64)
    lm.lm.noise = TrainedNoise()
    [(masked, _)] = lm.score([text], draws=64)
    assert abs(bound - masked) > 1e-3  # another estimate of another thing
    assert error > 0


def test_a_masked_checkpoint_says_nothing_of_noise(make_run: MakeRun) -> None:
    run = make_run(objective="mdlm", steps=1)
    train(run)
    folder = steps(run.folder)[-1][1] / "model"
    assert "noise" not in json.loads((folder / "config.json").read_text())["open_dllm"]
    assert load(folder, device="cpu").lm.noise == TrainedNoise()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"schedule": {"name": "gid", "options": {}}}, "no plugin noise_schedules/gid: did you mean 'gidd'"),
        ({"schedule": {"name": "gidd", "options": {"p": 1}}}, "p: "),
        ({"bound": "some"}, "bound 'some' is none of masks, noise"),
        ({"schedule": 3}, "it must hold bound, schedule, time_conditioning"),
    ],
)
def test_a_checkpoint_whose_noise_is_unknown_is_refused_in_a_line(
    make_run: MakeRun, change: dict[str, Any], expected: str
) -> None:
    run = noisy_run(make_run, "gidd", steps=1)
    train(run)
    path = steps(run.folder)[-1][1] / "model" / "config.json"
    config = json.loads(path.read_text())
    config["open_dllm"]["noise"] |= change
    path.write_text(json.dumps(config))
    with pytest.raises(UserError) as refused:
        load(path.parent, device="cpu")
    assert expected in str(refused.value)
    assert "config.json" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_without_a_bound_no_held_out_loss_is_logged(make_run: MakeRun) -> None:
    run = noisy_run(make_run, "duo", steps=1)
    run.lm.noise = replace(run.lm.noise, bound="none")
    train(run)
    assert len(logged(run.folder, "loss")) == 1
    assert not logged(run.folder, "held_out_loss")
    lm = load(steps(run.folder)[-1][1] / "model", device="cpu")
    with pytest.raises(UserError, match="knows no bound"):
        lm.score(["def f(x): return x"])


def test_the_loss_of_given_noise(make_run: MakeRun) -> None:
    """From Python: of tokens that the caller has corrupted."""
    run = noisy_run(make_run, "duo", steps=1)
    train(run)
    lm = load(steps(run.folder)[-1][1] / "model", device="cpu")
    tokens = torch.arange(2, 18).view(2, 8)
    noisy = torch.where(torch.arange(8) % 3 == 0, 5, tokens)
    chance = torch.full((2, 1), 0.4)
    uniform = {"name": "linear", "options": {"destination": "uniform"}}
    total, count = lm.loss(tokens, noisy, chance, "duo", noise_schedule=uniform)
    assert float(count) == 16
    assert float(total) > 0
    with pytest.raises(UserError, match="replaces tokens: give the noisy tokens"):
        lm.loss(tokens, noisy != tokens, chance, "duo", noise_schedule=uniform)
    with pytest.raises(UserError, match="objective 'duo' is for uniform noise"):
        lm.loss(tokens, noisy, chance, "duo")


def test_a_network_without_an_input_for_the_time_refuses_it(make_run: MakeRun) -> None:
    run = noisy_run(make_run, "duo", steps=1)
    run.lm.noise = replace(run.lm.noise, time_conditioning=True)
    with pytest.raises(UserError, match="no input for the time"):
        train(run)
