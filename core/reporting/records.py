"""What a run folder holds, as the report sees it. A None is a number that was not measured."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from opendllm.core.foundation.decoding_traces import DecodingTrace
from opendllm.core.foundation.sample_records import SampleKey, SampleRecord
from opendllm.registries.benchmarks import MetricKind, TaskRatio

Curve = tuple[tuple[int, float], ...]
"""Pairs of step and value, by step."""


@dataclass(frozen=True)
class Estimate:
    """A score with its 95 % interval.

    Attributes:
        kind: "estimate" too where an older result doesn't say it.
        ratio: see `Metric`.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    kind: MetricKind = "estimate"
    ratio: TaskRatio | None = None


@dataclass(frozen=True)
class RewardLog:
    """What a train.jsonl says of learning from rewards: each a curve by step, empty where it isn't said.

    Attributes:
        reward: the mean of a phase's answers, at its first step; so are the following.
        reward_deviation: the rewards' deviation within a prompt's answers, on average.
        groups_without_spread: share of the prompts whose answers all have one reward.
        completion_length: tokens an answer.
        ended: share of the answers that end within the length.
        kl: mean estimate, at each step.
        clip_fraction: share of the terms whose gradient is held back, at each step.
        held_out_pass_rate: share of the held-out problems' answers that pass.
    """

    reward: Curve
    reward_deviation: Curve
    groups_without_spread: Curve
    completion_length: Curve
    ended: Curve
    kl: Curve
    clip_fraction: Curve
    held_out_pass_rate: Curve


@dataclass(frozen=True)
class TrainingLog:
    """A train.jsonl.

    Attributes:
        loss: the objective's own loss; comparable only between runs of one objective.
        held_out_loss: nats per token.
        steps: the last step.
        tokens: how many were read until the last step; the log counts on from step to step.
        tokens_per_second: the mean over the time of training.
        seconds: that the steps took, by the clock.
        device_seconds: the same on every process, added up.
        peak_memory_bytes: of the first process.
        lost_from: the first step whose loss is no number, as older versions logged it; None where all are.
        rewards: None where documents were learnt.
        unreadable_lines: lines that are no JSON objects, an interrupted last one not counted.
    """

    loss: Curve
    held_out_loss: Curve
    steps: int
    tokens: int | None
    tokens_per_second: float | None
    seconds: float | None = None
    device_seconds: float | None = None
    peak_memory_bytes: int | None = None
    unreadable_lines: int = 0
    lost_from: int | None = None
    rewards: RewardLog | None = None


@dataclass(frozen=True)
class Speed:
    """How fast a benchmark's answers were written.

    Attributes:
        tokens_per_second: of the texts.
        forward_passes: of all answers together.
        seconds: of all answers, each one's share of its batch: those of several devices add up.
        texts: how many were written.
        tokens: that the texts are made of.
        peak_memory_bytes: of the first process.
    """

    tokens_per_second: float | None = None
    forward_passes: float | None = None
    seconds: float | None = None
    texts: float | None = None
    tokens: float | None = None
    peak_memory_bytes: int | None = None

    @property
    def passes_a_text(self) -> float | None:
        """How many forward passes a text took part in, on average."""
        return self.forward_passes / self.texts if self.forward_passes and self.texts else None

    @property
    def tokens_per_forward_pass(self) -> float | None:
        """How many tokens of its text a forward pass gave, on average."""
        return self.tokens / self.forward_passes if self.tokens and self.forward_passes else None


@dataclass(frozen=True)
class BenchmarkResult:
    """A results/BENCHMARK.json.

    Attributes:
        benchmark: the plugin's name; the file's name tells two uses of one plugin apart.
        headline: the metrics to show first.
        per_task: by task id, the numbers that variants are paired by; truth values are 0 and 1.
        verdicts: (task id, setting, sample) -> "passed", or why not, where answers are judged one by one.
    """

    benchmark: str
    metrics: Mapping[str, Estimate]
    headline: tuple[str, ...]
    lower_is_better: frozenset[str]
    per_task: Mapping[str, Mapping[str, float]]
    notes: tuple[str, ...]
    settings: Mapping[str, Any]
    provenance: Mapping[str, Any]
    speed: Speed
    verdicts: Mapping[SampleKey, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Variant:
    """One variant's folder.

    Attributes:
        label: what the report calls it: the folder's name, after the run's where there are several.
        group: the label that it shares with its repetitions under other seeds, else `label` itself.
        trained_in: the label of the variant whose training run it uses, if that is another one.
        training: its own log, or that of `trained_in`.
        extended: (step, new total) of each time that its training was given more steps.
        endpoint: the server that was asked, and the model's name there, in place of a backbone.
        benchmarks: by the name of the result file.
        samples: by the same names.
        traces: by the same names, how one of them came to be.
        expected: names of the results that the manifest asks for.
        damage: file -> why it couldn't be read.
        absent: files that should be there, and aren't.
    """

    label: str
    group: str
    seed: int | None = None
    training_digest: str | None = None
    trained_in: str | None = None
    parameters: int | None = None
    backbone: str | None = None
    endpoint: str | None = None
    objective: str | None = None
    sampler: str | None = None
    plugins: Mapping[str, str] = field(default_factory=dict)
    training: TrainingLog | None = None
    extended: tuple[tuple[int, int], ...] = ()
    benchmarks: Mapping[str, BenchmarkResult] = field(default_factory=dict)
    samples: Mapping[str, tuple[SampleRecord, ...]] = field(default_factory=dict)
    traces: Mapping[str, DecodingTrace] = field(default_factory=dict)
    expected: frozenset[str] = frozenset()
    damage: Mapping[str, str] = field(default_factory=dict)
    absent: frozenset[str] = frozenset()

    @property
    def was_trained(self) -> bool:
        """False of a checkpoint that is evaluated as it is."""
        return self.objective is not None or self.training is not None

    def lacks(self, benchmark: str) -> str | None:
        """Why there is no such result: "damaged", or "missing" where the manifest asks for it."""
        if benchmark in self.benchmarks:
            return None
        if f"results/{benchmark}.json" in self.damage:
            return "damaged"
        return "missing" if benchmark in self.expected else None


@dataclass(frozen=True)
class Published:
    """What others measured of a model; `benchmark` is the name of the result beside which it stands."""

    model: str
    benchmark: str
    metrics: Mapping[str, float]
    source: str


@dataclass(frozen=True)
class Run:
    """One run folder.

    Attributes:
        benchmarks: names of its results, in the manifest's order.
        settings: what the resolved manifest says; `manifest` is its text.
        damage: file -> why it couldn't be read.
    """

    folder: Path
    label: str
    name: str
    description: str | None
    seeds: tuple[int, ...]
    manifest: str
    benchmarks: tuple[str, ...]
    variants: tuple[Variant, ...]
    published: tuple[Published, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    damage: Mapping[str, str] = field(default_factory=dict)

    @property
    def digest(self) -> str | None:
        """Of the resolved manifest; None where that is missing."""
        return hashlib.sha256(self.manifest.encode()).hexdigest()[:16] if self.manifest else None


@dataclass(frozen=True, eq=False)
class Study:
    """Everything that one report lays side by side; equal to itself alone, what follows from it is kept."""

    runs: tuple[Run, ...]

    @property
    def name(self) -> str:
        """The run's name, or all of them."""
        return " and ".join(run.name if len(self.runs) == 1 else run.label for run in self.runs)

    @property
    def variants(self) -> tuple[Variant, ...]:
        """Of all runs, in order; the first one is what the others are compared with."""
        return tuple(variant for run in self.runs for variant in run.variants)

    @property
    def benchmarks(self) -> tuple[str, ...]:
        """Names of all results, in order."""
        return tuple(dict.fromkeys(name for run in self.runs for name in run.benchmarks))

    def results(self, benchmark: str) -> tuple[BenchmarkResult, ...]:
        """That benchmark's results, of those variants that have one."""
        return tuple(
            variant.benchmarks[benchmark] for variant in self.variants if benchmark in variant.benchmarks
        )

    def headline(self, benchmark: str) -> tuple[str, ...]:
        """The metrics to show first; all of them where the benchmark names none."""
        results = self.results(benchmark)
        named = dict.fromkeys(metric for result in results for metric in result.headline)
        return tuple(named) or self.metrics(benchmark)

    def metrics(self, benchmark: str) -> tuple[str, ...]:
        """Every metric that some variant has, in order."""
        return tuple(dict.fromkeys(metric for result in self.results(benchmark) for metric in result.metrics))

    def lower_is_better(self, benchmark: str, metric: str) -> bool:
        """Whether less of this metric is better."""
        return any(metric in result.lower_is_better for result in self.results(benchmark))
