"""Whether a variant's objective, noise schedule, backbone and benchmarks agree on the noise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from opendllm.core.manifest.checks import Issue, dotted
from opendllm.core.manifest.schema import Manifest
from opendllm.core.manifest.sources import KeyPath, Source
from opendllm.core.manifest.train_schema import Train
from opendllm.core.manifest.variant_plugins import TrainingPlugins
from opendllm.registries.benchmarks import Benchmark
from opendllm.registries.noise_schedules import NoiseSchedule
from opendllm.registries.options import (
    BackboneOptions,
    PluginOptions,
    destination_issue,
    only_asks_likelihoods,
)
from opendllm.registries.registry import ChosenPlugin, Registry

Benchmarks = Sequence[ChosenPlugin[Benchmark, PluginOptions] | None]


def noise_issues(
    manifest: Manifest,
    source: Source,
    backbone: BackboneOptions,
    training: TrainingPlugins,
    benchmarks: Benchmarks,
    schedules: Registry[NoiseSchedule],
) -> Iterator[Issue]:
    """What doesn't go together, of a manifest that trains."""
    assert manifest.train is not None
    for path, message in (
        *_schedule(training, schedules),
        *_time(training, backbone),
        *_bound(manifest.train, training, benchmarks),
    ):
        yield Issue(source.location(path), dotted(path), message)


def _schedule(training: TrainingPlugins, schedules: Registry[NoiseSchedule]) -> Iterator[tuple[KeyPath, str]]:
    objective, schedule = training.objective, training.noise_schedule
    allowed = objective.options.noise_schedules
    at: KeyPath = ("train", "noise_schedule")
    if allowed is not None and not any(schedules.means(name, schedule.registration) for name in allowed):
        only = f"only {', '.join(sorted(allowed))} goes with it"
        if schedule.name in allowed:
            only += f", and {schedule.registration.qualified_name} is another one"
        yield at, f"objective {objective.name!r} brings its own schedule; {only}"
        return
    issue = destination_issue(objective.name, objective.options, schedule.options)
    if issue is not None:
        yield at, issue
    elif allowed is not None and schedule.options.model_fields_set - {"destination"}:
        yield (*at, "options"), f"have no effect: objective {objective.name!r} brings its own schedule"


def _time(training: TrainingPlugins, backbone: BackboneOptions) -> Iterator[tuple[KeyPath, str]]:
    if training.objective.options.tells_time and not backbone.reads_time:
        at: KeyPath = ("train", "objective", "options")
        yield at, f"objective {training.objective.name!r} tells the time, which the backbone doesn't read"


def _bound(train: Train, training: TrainingPlugins, benchmarks: Benchmarks) -> Iterator[tuple[KeyPath, str]]:
    """An objective without a bound leaves nothing to measure."""
    noise = training.noise
    if noise.bound == "masks" and noise.time_conditioning:
        why = (
            f"objective {training.objective.name!r} tells the time, and masked diffusion's likelihood is "
            f"that of models that aren't told it"
        )
    elif noise.bound == "none":
        why = f"objective {training.objective.name!r} has no likelihood bound"
    else:
        return
    if train.checkpoint.keep_best:
        yield ("train", "checkpoint", "keep_best"), f"{why}: there is no best checkpoint by held-out loss"
    if train.held_out.every is not None:
        yield ("train", "held_out", "every"), f"{why}: there is no held-out loss"
    for index, benchmark in enumerate(benchmarks):
        if benchmark is not None and only_asks_likelihoods(benchmark.options):
            yield ("evaluate", index, "benchmark"), f"{why}: nothing can be said of its models here"
