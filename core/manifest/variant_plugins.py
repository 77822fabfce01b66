"""The plugins of a variant, each with its checked options."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from opendllm.core.rewards.weighing import WeightedReward
from opendllm.registries.backbones import Backbone
from opendllm.registries.benchmarks import Benchmark
from opendllm.registries.corpora import Corpus
from opendllm.registries.noise_schedules import NoiseSchedule
from opendllm.registries.objectives import Objective
from opendllm.registries.options import (
    BackboneOptions,
    ObjectiveOptions,
    PluginOptions,
    SamplerOptions,
    noise_destination,
)
from opendllm.registries.registry import ChosenPlugin
from opendllm.registries.samplers import Sampler
from opendllm.registries.trained_noise import TrainedNoise


@dataclass(frozen=True)
class TrainingPlugins:
    """Of the `train` section."""

    objective: ChosenPlugin[Objective, ObjectiveOptions]
    noise_schedule: ChosenPlugin[NoiseSchedule, PluginOptions]

    @property
    def noise(self) -> TrainedNoise:
        """What a model is trained to undo with them."""
        options = self.objective.options
        masks = noise_destination(self.noise_schedule.options) == "mask"
        bound = "masks" if masks and options.bound == "noise" else options.bound
        return TrainedNoise(None if masks else self.noise_schedule, bound, options.tells_time)


@dataclass(frozen=True)
class RewardPlugins:
    """Of the `train.rl` section.

    Attributes:
        problems: the benchmark that they are of; None where a file has them.
        rewards: with their weights.
        sampler: that answers are written with.
        held_out: as `problems`, of those that are held out; None where none are, too.
    """

    problems: ChosenPlugin[Benchmark, PluginOptions] | None
    rewards: tuple[WeightedReward, ...]
    sampler: ChosenPlugin[Sampler, SamplerOptions]
    held_out: ChosenPlugin[Benchmark, PluginOptions] | None

    def __iter__(self) -> Iterator[ChosenPlugin[Any, Any]]:
        """All of them."""
        yield from (reward.plugin for reward in self.rewards)
        yield self.sampler
        yield from filter(None, (self.problems, self.held_out))


@dataclass(frozen=True)
class EvaluationPlugins:
    """Of one entry of `evaluate`; the sampler may be the one of `generate`, or the backbone's own.

    Attributes:
        benchmark: the entry's.
        own_sampler: None where a server is asked.
    """

    benchmark: ChosenPlugin[Benchmark, PluginOptions]
    own_sampler: ChosenPlugin[Sampler, SamplerOptions] | None

    @property
    def sampler(self) -> ChosenPlugin[Sampler, SamplerOptions]:
        """Of a model of this machine."""
        assert self.own_sampler is not None
        return self.own_sampler


@dataclass(frozen=True)
class VariantPlugins:
    """Everything that a variant's manifest names.

    Attributes:
        own_backbone: of the model; None where a server is asked.
        corpora: of the data, in the order of `Data.corpora`; none where the manifest has no data.
        training: None where nothing is trained.
        own_sampler: the one of `generate`, or the backbone's own; None where a server is asked.
        evaluations: one for each entry of `evaluate`.
        rewards: None where nothing is learnt from rewards.
    """

    own_backbone: ChosenPlugin[Backbone, BackboneOptions] | None
    corpora: tuple[ChosenPlugin[Corpus, PluginOptions], ...]
    training: TrainingPlugins | None
    own_sampler: ChosenPlugin[Sampler, SamplerOptions] | None
    evaluations: tuple[EvaluationPlugins, ...]
    rewards: RewardPlugins | None = None

    @property
    def backbone(self) -> ChosenPlugin[Backbone, BackboneOptions]:
        """Of a model of this machine."""
        assert self.own_backbone is not None
        return self.own_backbone

    @property
    def sampler(self) -> ChosenPlugin[Sampler, SamplerOptions]:
        """That such a model is decoded with."""
        assert self.own_sampler is not None
        return self.own_sampler

    def __iter__(self) -> Iterator[ChosenPlugin[Any, Any]]:
        """All of them, but for samplers that only one benchmark is decoded with."""
        if self.own_backbone is None:  # of a server
            yield from self.corpora
            yield from (evaluation.benchmark for evaluation in self.evaluations)
            return
        yield self.backbone
        yield from self.corpora
        if self.training is not None:
            yield self.training.objective
            yield self.training.noise_schedule
        if self.rewards is not None:
            yield from self.rewards
        yield self.sampler
        yield from (evaluation.benchmark for evaluation in self.evaluations)

    def built_corpora(self) -> list[Corpus]:
        """The corpora, ready to be read."""
        return [corpus.build() for corpus in self.corpora]
