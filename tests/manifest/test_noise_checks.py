"""What does not go together of objectives, noise schedules, backbones and benchmarks: said before torch."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import ClassVar

import pytest

from opendllm.core.manifest.experiment_manifest import read_experiment
from opendllm.plugins.backbones import OpenDcoderOptions
from opendllm.plugins.objectives import DuoOptions, MdlmOptions
from opendllm.registries.discovery import Plugins, installed_plugins
from opendllm.registries.errors import UserError
from opendllm.registries.options import Bound
from opendllm.registries.registry import PluginWarning, Provenance, Registration, Registry
from opendllm.registries.trained_noise import TrainedNoise

from .conftest import Read, Refusal, Write

UNIFORM = "train.noise_schedule={name: linear, options: {destination: uniform}}"


@pytest.mark.parametrize(
    ("settings_", "expected"),
    [
        (
            ["train.objective.name=duo"],
            "train.noise_schedule: objective 'duo' is for uniform noise, and the noise schedule's is "
            "mask: choose a noise schedule with `destination: uniform`",
        ),
        ([UNIFORM], "objective 'mdlm' is for mask noise, and the noise schedule's is uniform"),
        (
            ["train.objective.name=gidd", UNIFORM],
            "objective 'gidd' is for mixture noise, and the noise schedule's is uniform: choose a schedule "
            "of mixed noise, such as gidd",
        ),
        (["train.noise_schedule.name=gidd"], "objective 'mdlm' is for mask noise"),
        (["train.objective.name=llada", UNIFORM], "objective 'llada' is for mask noise"),
        (
            ["train.objective.name=udlm", UNIFORM, "train.noise_schedule.options.eps=0.1"],
            "have no effect: objective 'udlm' brings its own schedule",
        ),
        (
            ["train.objective.name=duo", UNIFORM, "train.objective.options.time_conditioning=true"],
            "train.objective.options: objective 'duo' tells the time, which the backbone doesn't read",
        ),
        (
            ["train.noise_schedule.name=gidd", "train.noise_schedule.options.p_uniform=1"],
            "for uniform noise use objective duo",
        ),
        (
            ["train.objective.name=duo", UNIFORM, "model.backbone.options.attention=causal"],
            "'duo' trains bidirectional models",
        ),
    ],
)
def test_noise_that_does_not_go_together_is_refused(
    refusal: Refusal, settings_: list[str], expected: str
) -> None:
    [line] = refusal("", *settings_)
    assert expected in line


@pytest.mark.parametrize(
    "settings_",
    [
        ["train.objective.name=duo", UNIFORM],
        ["train.objective.name=duo", UNIFORM, "train.noise_schedule.name=cosine"],
        ["train.objective.name=udlm", UNIFORM],
        ["train.objective.name=gidd", "train.noise_schedule.name=gidd"],
        ["train.objective.name=gidd", "train.noise_schedule.name=gidd-log-snr"],
    ],
)
def test_noise_that_goes_together_is_taken(read: Read, settings_: list[str]) -> None:
    [variant] = read("", *settings_).variants
    assert variant.plugins.training is not None
    noise = variant.plugins.training.noise
    assert noise.schedule is not None
    assert noise.destination in variant.plugins.training.objective.options.destinations


def test_a_sampler_that_nobody_uses_is_not_looked_at(read: Read, refusal: Refusal) -> None:
    """The backbone's own is for masks; perplexity decodes nothing."""
    uniform = ["train.objective.name=duo", UNIFORM]
    assert read("", *uniform)
    [line] = refusal("  - benchmark: {name: stdlib-infilling}\n", *uniform)
    assert "sampler 'p2' undoes mask noise, and this model's is uniform" in line
    [line] = refusal("", *uniform, "generate.sampler={name: p2}")
    assert "sampler 'p2' undoes mask noise" in line


def test_a_masked_models_noise_is_the_default(read: Read) -> None:
    [variant] = read().variants
    assert variant.plugins.training is not None
    assert variant.plugins.training.noise == TrainedNoise()


def test_only_linear_is_that_very_plugin_and_not_one_called_alike(write: Write) -> None:
    """A stranger's `linear` may be anything."""
    installed = installed_plugins()
    plugins = replace(installed, noise_schedules=Registry("noise_schedules"))
    linear = installed.noise_schedules.get("linear")
    strangers = replace(linear, target="nowhere:Linear", provenance=Provenance("stranger", "0.1"))
    for registration in (strangers, linear):
        plugins.noise_schedules.add(registration)
    settings = ["train.objective.name=llada", "train.noise_schedule.name=stranger:linear"]
    with pytest.raises(UserError) as refused:
        read_experiment(write(), settings, plugins)
    [line] = str(refused.value).splitlines()
    assert "only linear goes with it, and stranger:linear is another one" in line
    for name in ("linear", "open-dllm:linear"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PluginWarning)
            experiment = read_experiment(write(), [settings[0], f"train.noise_schedule.name={name}"], plugins)
        assert experiment.variants[0].plugins.training is not None


class Unbounded(DuoOptions):
    """An objective that nobody has a bound for."""

    @property
    def bound(self) -> Bound:
        return "none"


@pytest.fixture
def with_unbounded() -> Plugins:
    installed = installed_plugins()
    plugins = Plugins(
        noise_schedules=installed.noise_schedules,
        samplers=installed.samplers,
        backbones=installed.backbones,
        corpora=installed.corpora,
        benchmarks=installed.benchmarks,
    )
    target = "opendllm.plugins.objectives.duo:Duo"
    plugins.objectives.add(
        Registration("objectives", "unbounded", Unbounded, target, "has none", Provenance("tests", "0"))
    )
    return plugins


def test_an_objective_without_a_bound_has_no_perplexity(write: Write, with_unbounded: Plugins) -> None:
    settings = ["train.objective.name=unbounded", UNIFORM]
    for more, expected in (
        ([], "evaluate.0.benchmark: objective 'unbounded' has no likelihood bound"),
        (
            ["train.checkpoint.keep_best=1", "evaluate=[]"],
            "train.checkpoint.keep_best: objective 'unbounded'",
        ),
        (["train.held_out.every=5", "evaluate=[]"], "train.held_out.every: objective 'unbounded'"),
    ):
        with pytest.raises(UserError) as refused:
            read_experiment(write(), [*settings, *more], with_unbounded)
        [line] = str(refused.value).splitlines()
        assert expected in line
    [variant] = read_experiment(write(), [*settings, "evaluate=[]"], with_unbounded).variants
    assert variant.plugins.training is not None
    assert variant.plugins.training.noise.bound == "none"


class TimedMasksOptions(MdlmOptions):
    """Masked diffusion that tells the time."""

    @property
    def tells_time(self) -> bool:
        return True


class TimedBackboneOptions(OpenDcoderOptions):
    """A backbone that reads it."""

    reads_time: ClassVar[bool] = True


def test_masks_with_a_time_have_no_perplexity_either(write: Write, with_unbounded: Plugins) -> None:
    """The estimators of masked diffusion don't tell it: better said now than after the training."""
    tests = Provenance("tests", "0")
    built_in = installed_plugins()
    with_unbounded.objectives.add(
        Registration(
            "objectives", "timed", TimedMasksOptions, "opendllm.plugins.objectives.mdlm:Mdlm", "told", tests
        )
    )
    with_unbounded.backbones = Registry("backbones")
    family = built_in.backbones.get("open-dcoder")
    with_unbounded.backbones.add(
        Registration("backbones", "open-dcoder", TimedBackboneOptions, family.target, "reads time", tests)
    )
    with pytest.raises(UserError) as refused:
        read_experiment(write(), ["train.objective.name=timed"], with_unbounded)
    [line] = str(refused.value).splitlines()
    assert "evaluate.0.benchmark: objective 'timed' tells the time, and masked diffusion's likelihood" in line
    assert read_experiment(write(), ["train.objective.name=timed", "evaluate=[]"], with_unbounded)
