"""A plan as text, and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from opendllm.core.manifest.experiment_manifest import Variant
from opendllm.core.planning.advice import advice
from opendllm.core.planning.devices import COPY_SHARE, PASS_SECONDS_A_LAYER, counted
from opendllm.core.planning.evaluation_plan import EvaluationPlan
from opendllm.core.planning.experiment_plan import ExperimentPlan, Total
from opendllm.core.planning.hardware import Hardware
from opendllm.core.planning.needs import missing
from opendllm.core.planning.plan import Plan
from opendllm.core.planning.reward_plan import RolloutPlan
from opendllm.core.planning.training_plan import TrainingPlan
from opendllm.registries.architecture import Architecture

INDENT = " " * 14


@dataclass(frozen=True)
class Here:
    """What is planned for.

    Attributes:
        hardware: the devices.
        why: these.
        machine: this one, in a line.
        cpu: of this machine, where it has no GPU.
        on_cpu: the plan for that.
    """

    hardware: Hardware
    why: str
    machine: str
    cpu: Hardware | None = None
    on_cpu: ExperimentPlan | None = None

    def on_this(self, variant: str) -> Plan | None:
        """A variant's plan for this machine's CPU, where that is what there is."""
        return None if self.on_cpu is None else self.on_cpu.variants[variant]

    def why_not_here(self, memory: int | None) -> str:
        """Why something can't run on this machine's CPU; empty where it can."""
        if self.cpu is None or memory is None or memory <= self.cpu.device.memory:
            return ""
        return f"not on this machine: {size(memory)} of its {size(self.cpu.device.memory)}"


def lines_of(variants: Sequence[Variant], found: ExperimentPlan, here: Here) -> Iterator[str]:
    """The whole plan."""
    yield f"device: {here.why}; this machine: {here.machine}"
    hardware = here.hardware
    yield (
        f"times: the longest of operations at {hardware.utilisation:.0%} of the peak, bytes at "
        f"{hardware.device.bandwidth / 1e12:.2g} TB/s ({COPY_SHARE:.0%} of the data sheet's), and "
        f"{PASS_SECONDS_A_LAYER * 1e3:g} ms a layer of an uncompiled evaluation pass; loading, held-out "
        f"losses, scoring and compiling come on top"
    )
    if here.cpu is not None:
        cpu = here.cpu.device
        yield (
            f"this machine's: {cpu.operations['fp32'] / 1e9:,.0f} GFLOP/s of float32 matrix products and "
            f"{cpu.bandwidth / 1e9:.1f} GB/s of copies, measured just now by the cores' own time"
        )
    for variant in variants:
        yield variant.name
        for line in _variant_lines(variant, found.variants[variant.name], here):
            yield f"  {line}"
    yield "total"
    for line in _total_lines(found, here):
        yield f"  {line}"


def _variant_lines(variant: Variant, found: Plan, here: Here) -> Iterator[str]:
    architecture, on_cpu = found.architecture, here.on_this(variant.name)
    if architecture is None:
        yield f"unknown       {found.unknown}"
    else:
        embeddings = f"{architecture.embedding_parameters:,} in embeddings"
        yield f"parameters    {architecture.parameters:,} ({embeddings})"
        if isinstance(architecture, Architecture) and architecture.experts is not None:
            yield f"active        {architecture.active_parameters:,} read for a token"
    if found.trained_in:
        yield f"training      trained in {found.trained_in}"
    elif found.training is not None:
        yield from _rollout_lines(found.rollouts)
        yield from _training_lines(found.training, None if on_cpu is None else on_cpu.training, here)
    elif variant.manifest.train is None:
        yield "training      none: evaluated as it is"
    for number, each in enumerate(found.evaluations):
        yield from _evaluation_lines(each, None if on_cpu is None else on_cpu.evaluations[number], here)
    yield from _memory_line(found.evaluations)
    for line in advice(variant, found, here.hardware):
        yield f"too large     {line}"
    for what in missing(variant):
        of = (
            f" ({size(found.download[1])} in bf16)"
            if found.download and what.startswith(found.download[0])
            else ""
        )
        yield f"missing       {what}{of}"


def _rollout_lines(found: RolloutPlan | None) -> Iterator[str]:
    if found is not None:
        yield (
            f"answers       {found.answers:,} in {counted(found.phases, 'phase')}, rows of about "
            f"{found.row_length:,} tokens, at most {found.forward_passes:,} forward passes of a row, "
            f"{found.flops:.3g} operations (in those below); rewards come on top"
        )


def _training_lines(training: TrainingPlan, on_cpu: TrainingPlan | None, here: Here) -> Iterator[str]:
    activations = (
        "activations not known"
        if training.activations is None
        else f"activations about {size(training.activations)}"
    )
    offloaded = f"; {size(training.offloaded)} in the CPU's memory" if training.offloaded else ""
    yield f"tokens        {training.tokens:,}"
    yield f"operations    {training.flops:.3g}"
    yield (
        f"memory        {size(training.memory)} a device: weights {size(training.weights)}, gradients "
        f"{size(training.gradients)}, optimizer {size(training.optimizer)}, {activations}{offloaded}"
    )
    yield f"checkpoint    {size(training.checkpoint)}, of which {training.checkpoints} kept"
    large = _too_large(training.memory, here)
    yield f"time          {duration(training.seconds)} on {_devices(here)}{large}{_on_this(on_cpu, here)}"


def _evaluation_lines(found: EvaluationPlan, on_cpu: EvaluationPlan | None, here: Here) -> Iterator[str]:
    if found.unknown:
        yield f"evaluation    {found.label}: unknown, {found.unknown}"
        return
    if found.answered_in:
        yield f"evaluation    {found.label}: answered in {found.answered_in}"
        return
    most = "at most " if found.at_most else "about " if found.estimated else ""
    rows = (
        f"{found.shortest:,}"
        if found.shortest == found.longest
        else f"{found.shortest:,} to {found.longest:,}"
    )
    yield (
        f"evaluation    {found.label}: {counted(found.requests, 'request')} of about {rows} tokens, "
        f"{most}{found.forward_passes:,} forward passes of a row, {found.flops:.3g} operations"
    )
    large = _too_large(found.memory, here)
    yield f"{INDENT}{most}{duration(found.seconds)} on {_devices(here)}{large}{_on_this(on_cpu, here)}"


def _memory_line(evaluations: Sequence[EvaluationPlan]) -> Iterator[str]:
    """Of the one that needs most."""
    known = [each for each in evaluations if each.memory is not None]
    if not known:
        return
    most = max(known, key=lambda each: each.memory or 0)
    activations = (
        "activations not known" if most.activations is None else f"activations about {size(most.activations)}"
    )
    yield (
        f"memory        {size(most.memory or 0)} a device for {most.label}: weights {size(most.weights)}, "
        f"keys and values {size(most.keys_values)}, logits {size(most.logits)}, {activations} "
        f"({counted(most.batch, 'row')} at once)"
    )


def _too_large(memory: int | None, here: Here) -> str:
    return " (too large for it, see below)" if (memory or 0) > here.hardware.device.memory else ""


def _on_this(found: TrainingPlan | EvaluationPlan | None, here: Here) -> str:
    """What the same takes on this machine's CPU."""
    if found is None:
        return ""
    why_not = here.why_not_here(found.memory)
    return f"; {why_not}" if why_not else f"; about {duration(found.seconds)} on this machine"


def _total_lines(found: ExperimentPlan, here: Here) -> Iterator[str]:
    total = found.total
    most = "at most " if total.at_most else ""
    on_cpu = "" if here.on_cpu is None else f"; {_total_here(here.on_cpu.total, here)}"
    if total.unknown and not total.seconds:
        yield "time          not known"
    else:
        yield (
            f"time          {most}{duration(total.seconds)} on {_devices(here)}, {total.device_hours:.3g} "
            f"device-hours{on_cpu}"
        )
    yield f"memory        {'not known' if total.memory is None else f'{size(total.memory)} a device at most'}"
    yield f"disk          {size(total.disk)} of checkpoints"
    yield f"download      {size(total.download)} of checkpoints; data sets and problems come on top"
    if total.unknown:
        yield f"not counted   {', '.join(total.unknown)}"


def _total_here(total: Total, here: Here) -> str:
    why_not = here.why_not_here(total.memory)
    return why_not or f"about {duration(total.seconds)} on this machine"


def content_of(variants: Sequence[Variant], found: ExperimentPlan, here: Here) -> dict[str, Any]:
    """Machine-readable: the same figures."""
    hardware = here.hardware
    content: dict[str, Any] = {
        "device": {**_device_content(hardware), "why": here.why},
        "this_machine": {"is": here.machine, "cpu": None if here.cpu is None else _device_content(here.cpu)},
        "variants": {
            variant.name: {
                **_variant_content(found.variants[variant.name]),
                "advice": advice(variant, found.variants[variant.name], hardware),
                "missing": missing(variant),
                "on_this_machine": _here_content(here.on_this(variant.name), here),
            }
            for variant in variants
        },
        "total": asdict(found.total),
    }
    content["total"]["on_this_machine"] = None if here.on_cpu is None else asdict(here.on_cpu.total)
    return content


def _device_content(hardware: Hardware) -> dict[str, Any]:
    return {**asdict(hardware.device), "devices": hardware.devices, "utilisation": hardware.utilisation}


def _variant_content(found: Plan) -> dict[str, Any]:
    """`architecture` as far as it is one of ours."""
    sizes = found.architecture
    return {
        "parameters": None if sizes is None else sizes.parameters,
        "active_parameters": sizes.active_parameters if isinstance(sizes, Architecture) else None,
        "architecture": asdict(sizes) if isinstance(sizes, Architecture) else None,
        "training": None
        if found.training is None
        else {**asdict(found.training), "memory": found.training.memory},
        "rollouts": None if found.rollouts is None else asdict(found.rollouts),
        "trained_in": found.trained_in or None,
        "evaluations": {each.label: _evaluation_content(each) for each in found.evaluations},
        "download": None if found.download is None else dict([found.download]),
        **({"unknown": found.unknown} if found.unknown else {}),
    }


def _evaluation_content(found: EvaluationPlan) -> dict[str, Any]:
    if found.unknown:
        return {"unknown": found.unknown}
    content = {**asdict(found), "memory": found.memory}
    return {key: value for key, value in content.items() if key not in ("label", "unknown")}


def _here_content(on_cpu: Plan | None, here: Here) -> dict[str, Any] | None:
    """What it takes on this machine's CPU; None where that isn't what it would run on."""
    if on_cpu is None:
        return None
    training = on_cpu.training
    return {
        "fits": not here.why_not_here(on_cpu.memory),
        "training_seconds": None if training is None else training.seconds,
        "evaluation_seconds": {
            each.label: None if each.unknown else each.seconds for each in on_cpu.evaluations
        },
    }


def _devices(here: Here) -> str:
    name = here.hardware.device.name
    return f"one {name}" if here.hardware.devices == 1 else f"{here.hardware.devices} x {name}"


def size(amount: float) -> str:
    """Bytes for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.3g} {unit}"
        amount /= 1024
    return f"{amount:.3g} TiB"


def duration(seconds: float) -> str:
    """For people."""
    if seconds < 120:
        return f"{seconds:.3g} s"
    if seconds < 7200:
        return f"{seconds / 60:.3g} min"
    hours = seconds / 3600
    return f"{hours:.3g} h" if hours < 100 else f"{hours / 24:,.0f} days"
