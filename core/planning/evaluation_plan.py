"""Requests, forward passes, operations, memory and time of one benchmark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from opendllm.core.manifest.checks import decoder_options, generation_of
from opendllm.core.manifest.experiment_manifest import Variant
from opendllm.core.planning.forward_costs import Loaded, pass_seconds
from opendllm.core.planning.hardware import Hardware
from opendllm.core.planning.request_sizes import requests_of, tokens_of
from opendllm.registries.errors import UserError
from opendllm.registries.options import only_asks_likelihoods
from opendllm.registries.planned_requests import PlannedLikelihoods, PlannedTexts

if TYPE_CHECKING:
    from opendllm.core.decoding.options import DecoderOptions
    from opendllm.core.planning.canvas_pattern import Pattern
    from opendllm.registries.samplers import Sampler


@dataclass(frozen=True)
class EvaluationPlan:
    """Of one entry of `evaluate`; sizes in bytes, of one device.

    Attributes:
        label: the entry's.
        unknown: why nothing more is known, and what to do; empty where it is.
        answered_in: the variant whose likelihoods are taken over; empty where they are estimated here.
        requests: answers that are wanted.
        shortest: tokens of the shortest row, which is estimated from characters.
        longest: of the longest one.
        forward_passes: each counted once for every row that takes part.
        at_most: whether the data decides, so that there may be fewer; operations and time are then, too.
        estimated: whether they hang on a length that is estimated from characters.
        flops: of all of them.
        batch: rows that go through the model together, at most.
        spread: whether weights and keys are shared out over all devices (`device_map`).
        weights: as they lie in memory.
        keys_values: kept of a batch.
        logits: that exist together at most.
        activations: of a batch, an estimate; None where the model's widths aren't known.
        seconds: on all devices, the model loaded and warm.
    """

    label: str
    unknown: str = ""
    answered_in: str = ""
    requests: int = 0
    shortest: int = 0
    longest: int = 0
    forward_passes: int = 0
    at_most: bool = False
    estimated: bool = False
    flops: float = 0.0
    batch: int = 0
    spread: bool = False
    weights: int = 0
    keys_values: int = 0
    logits: int = 0
    activations: int | None = None
    seconds: float = 0.0

    @property
    def memory(self) -> int | None:
        """Of a device; None where nothing is known."""
        if self.unknown:
            return None
        return self.weights + self.keys_values + self.logits + (self.activations or 0)

    def with_more(self, other: EvaluationPlan) -> EvaluationPlan:
        """This and further requests of the same entry."""
        return replace(
            self,
            requests=self.requests + other.requests,
            shortest=min(self.shortest, other.shortest),
            longest=max(self.longest, other.longest),
            forward_passes=self.forward_passes + other.forward_passes,
            at_most=self.at_most or other.at_most,
            estimated=self.estimated or other.estimated,
            flops=self.flops + other.flops,
            batch=max(self.batch, other.batch),
            keys_values=max(self.keys_values, other.keys_values),
            logits=max(self.logits, other.logits),
            activations=max(self.activations or 0, other.activations or 0) or None,
            seconds=self.seconds + other.seconds,
        )


@dataclass(frozen=True)
class Evaluated:
    """What is evaluated, and on what.

    Attributes:
        variant: whose entries these are.
        loaded: its model.
        pattern: its checkpoint's attention.
        hardware: what it runs on.
        vocab_size: of its tokenizer.
    """

    variant: Variant
    loaded: Loaded
    pattern: Pattern
    hardware: Hardware
    vocab_size: int


def plan_evaluation(evaluated: Evaluated, index: int, ask: bool) -> EvaluationPlan:
    """What an entry of `evaluate` costs.

    Args:
        evaluated: what and where.
        index: the entry's number.
        ask: whether the benchmark may be loaded, see `requests_of`.
    """
    entry = evaluated.variant.manifest.evaluate[index]
    label = entry.label or entry.benchmark.name
    try:
        found = requests_of(evaluated.variant, index, ask)
        if found is None:
            todo = "" if ask else ": --ask-benchmarks loads it and counts"
            return EvaluationPlan(label, f"benchmark {entry.benchmark.name!r} doesn't say what it asks{todo}")
        parts = _parts(evaluated, index, found)
    except UserError as error:
        return EvaluationPlan(label, str(error))
    if not parts:
        return EvaluationPlan(label, f"benchmark {entry.benchmark.name!r} asks nothing")
    plan = replace(parts[0], label=label)
    for part in parts[1:]:
        plan = plan.with_more(part)
    return plan


def _parts(
    evaluated: Evaluated, index: int, asked: Sequence[PlannedTexts | PlannedLikelihoods]
) -> list[EvaluationPlan]:
    """Of each group of requests."""
    plugins = evaluated.variant.plugins.evaluations[index]
    sampler = None if only_asks_likelihoods(plugins.benchmark.options) else plugins.sampler.build()
    options = decoder_options(generation_of(evaluated.variant.manifest, index))
    parts = []
    for each in asked:
        if isinstance(each, PlannedLikelihoods):
            parts.append(_likelihoods(evaluated, index, each))
        elif sampler is not None:
            parts.append(_texts(evaluated, index, each, (sampler, options)))
    return parts


def _texts(
    evaluated: Evaluated, index: int, asked: PlannedTexts, decoding: tuple[Sampler, DecoderOptions]
) -> EvaluationPlan:
    from opendllm.core.decoding.batch_memory import LOGIT_BYTES, ROWS_ON_A_CPU, rows_by_memory
    from opendllm.core.decoding.proposer import LOGITS_AT_ONCE
    from opendllm.core.planning.canvas_reads import Canvas, reads_of

    sampler, options = decoding
    entry, loaded, hardware = evaluated.variant.manifest.evaluate[index], evaluated.loaded, evaluated.hardware
    left, right = (tokens_of(part, evaluated.vocab_size) for part in (asked.left, asked.right))
    gap = asked.length or options.max_new_tokens
    if asked.length is None and asked.reference is not None:
        gap = max(1, tokens_of(asked.reference, evaluated.vocab_size))
    canvas = Canvas(max(1, left), gap, right)
    reads = reads_of(canvas, evaluated.pattern, sampler, options)
    wanted = asked.count * entry.samples_per_task
    replicas = 1 if loaded.devices > 1 else hardware.devices
    columns_kept = max(canvas.length, int(reads.seen.max(initial=0)))
    guided = 2 if options.guidance_scale > 0 else 1
    key_bytes = loaded.keys_values(1) if reads.keeps_keys else 0
    keys_a_row = guided * (columns_kept + 1) * key_bytes / loaded.devices
    most_columns, weights = int(reads.columns.max(initial=0)), math.ceil(loaded.weights / loaded.devices)
    logit_bytes = (loaded.number if loaded.number < 4 else 0) + LOGIT_BYTES
    at_once = max(1, LOGITS_AT_ONCE[hardware.device.kind] // evaluated.vocab_size)
    texts, states = math.ceil(wanted / replicas), loaded.activations(most_columns)
    if entry.batch_size != "auto":
        rows = min(texts, entry.batch_size)
    elif hardware.device.is_gpu and states is not None:
        fixed = weights + at_once * evaluated.vocab_size * logit_bytes
        rows = rows_by_memory(texts, hardware.device.memory, fixed, math.ceil(keys_a_row) + states)
    else:
        rows = min(texts, ROWS_ON_A_CPU)
    batches = wanted / replicas / rows
    flops = seconds = 0.0
    uncompiled = not options.compile
    steps = zip(reads.columns.tolist(), reads.seen.tolist(), reads.scored.tolist(), strict=True)
    costs: dict[tuple[int, int, int], tuple[float, float]] = {}
    for step in steps:
        if step not in costs:
            columns, seen, scored = step
            operations = loaded.operations(columns, seen, scored)
            read = loaded.weights_read(rows * columns) + rows * seen * key_bytes
            costs[step] = operations, pass_seconds(loaded, hardware, rows * operations, read, uncompiled)
        flops, seconds = flops + costs[step][0], seconds + costs[step][1]
    scored = rows * int(reads.scored.max(initial=0))
    return EvaluationPlan(
        label="",
        requests=wanted,
        shortest=canvas.length,
        longest=canvas.length,
        forward_passes=wanted * len(reads.columns),
        at_most=reads.at_most,
        estimated=asked.length is None and asked.reference is not None,
        flops=wanted * flops,
        batch=rows,
        spread=loaded.devices > 1,
        weights=weights,
        keys_values=math.ceil(rows * keys_a_row),
        logits=min(scored, at_once) * evaluated.vocab_size * logit_bytes,
        activations=loaded.activations(rows * most_columns),
        seconds=batches * seconds,
    )


def _likelihoods(evaluated: Evaluated, index: int, asked: PlannedLikelihoods) -> EvaluationPlan:
    from opendllm.core.networks.logit_chunks import rows_at_once
    from opendllm.core.planning.likelihood_reads import likelihood_reads

    manifest, loaded, hardware = evaluated.variant.manifest, evaluated.loaded, evaluated.hardware
    training = evaluated.variant.plugins.training
    bound = "masks" if training is None else training.noise.bound
    if bound == "none":
        raise UserError("the checkpoint will have no likelihood")
    longest = manifest.data.sequence_length if manifest.data else None
    if asked.characters is None and longest is None:
        raise UserError(
            "as long as the checkpoint's context, which its files say: give `data.sequence_length`"
        )
    length = longest or tokens_of(asked.characters or 0, evaluated.vocab_size)
    if asked.characters is not None:
        length = min(length, tokens_of(asked.characters, evaluated.vocab_size))
    greedy = tokens_of(asked.greedy, evaluated.vocab_size) if asked.greedy else 0
    draws = manifest.evaluate[index].likelihood_draws
    reads = likelihood_reads(asked.count, max(1, length), greedy, evaluated.pattern, (bound, draws))
    operations = loaded.operations(reads.columns, reads.columns, reads.scored)
    together = reads.rows_together
    read = loaded.weights_read(together * reads.columns)
    replicas = 1 if loaded.devices > 1 else hardware.devices
    seconds = pass_seconds(loaded, hardware, together * operations, read, uncompiled=True)
    chunk = min(int(together * reads.scored), rows_at_once(evaluated.vocab_size, hardware.device.kind))
    return EvaluationPlan(
        label="",
        requests=asked.count,
        shortest=length,
        longest=length,
        forward_passes=reads.rows,
        at_most=asked.at_most or reads.at_most,
        flops=reads.rows * operations,
        batch=together,
        spread=loaded.devices > 1,
        weights=math.ceil(loaded.weights / loaded.devices),
        logits=chunk * evaluated.vocab_size * ((loaded.number if loaded.number < 4 else 0) + 8),
        activations=loaded.activations(together * reads.columns),
        seconds=seconds * math.ceil(reads.rows / together) / replicas,
    )
