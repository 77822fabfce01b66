"""`plan`: what an experiment will cost."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from opendllm.core.manifest.experiment_manifest import read_experiment
from opendllm.core.planning.devices import ASSUMED, Gpu, gpus_here, this_machine
from opendllm.core.planning.plan import Hardware, Plan, missing, plan
from opendllm.registries.architecture import Architecture
from opendllm.registries.discovery import installed_plugins


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("plan")(plan_experiment)


def plan_experiment(
    manifest: Annotated[Path, typer.Argument(help="The experiment's YAML file.")],
    devices: Annotated[int, typer.Option(min=1, help="How many train together.")] = 1,
    peak_tflops: Annotated[
        float | None,
        typer.Option(min=0.001, help="Of one device; by default that of this machine's GPU, or an H100's."),
    ] = None,
    utilisation: Annotated[
        float, typer.Option(min=0.001, max=1, help="Share of the peak that is reached.")
    ] = 0.4,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one value.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Print parameters, tokens, operations, memory a device, checkpoint size and time of each variant."""
    experiment = read_experiment(manifest, settings or [], installed_plugins())
    gpus = gpus_here()
    here = next((gpu for gpu in gpus if gpu.model), None)
    hardware = Hardware(devices, peak_tflops, utilisation, (here and here.model) or ASSUMED)
    plans = {variant.name: plan(variant, hardware) for variant in experiment.variants}
    absent = {variant.name: missing(variant) for variant in experiment.variants}
    if as_json:
        about = {"device": _device(hardware, here), "this_machine": this_machine(gpus)}
        content = {
            name: {**_content(found), **about, "missing": absent[name]} for name, found in plans.items()
        }
        typer.echo(json.dumps(content, indent=2))
        return
    typer.echo(f"device: {_device(hardware, here)}; this machine: {this_machine(gpus)}")
    for name, found in plans.items():
        lines = [*_lines(found, hardware, gpus), *(f"missing       {what}" for what in absent[name])]
        typer.echo(f"{name}\n" + "\n".join(f"  {line}" for line in lines))


def _content(found: Plan) -> dict[str, Any]:
    """Machine-readable; `architecture` as far as it is one of ours."""
    sizes = found.architecture
    return {
        "parameters": None if sizes is None else sizes.parameters,
        "active_parameters": sizes.active_parameters if isinstance(sizes, Architecture) else None,
        "architecture": asdict(sizes) if isinstance(sizes, Architecture) else None,
        "training": None if found.training is None else asdict(found.training),
        **({"unknown": found.unknown} if found.unknown else {}),
    }


def _device(hardware: Hardware, here: Gpu | None) -> str:
    """Which one the time is of, and why that one."""
    if hardware.peak_tflops is not None:
        return f"one of {hardware.peak_tflops:g} * 10^12 operations a second, as --peak-tflops says"
    if here is not None:
        return f"{hardware.model}, as in this machine"
    return f"{hardware.model}, assumed: --peak-tflops says what another one reaches"


def _lines(found: Plan, hardware: Hardware, gpus: Sequence[Gpu] = ()) -> list[str]:
    architecture = found.architecture
    if architecture is None:
        return [f"unknown       {found.unknown}"]
    lines = [
        f"parameters    {architecture.parameters:,} ({architecture.embedding_parameters:,} in embeddings)"
    ]
    if isinstance(architecture, Architecture) and architecture.experts is not None:
        lines.append(f"active        {architecture.active_parameters:,} read for a token")
    training = found.training
    if training is None:
        return [*lines, "training      none: evaluated as it is"]
    memory = training.weights + training.gradients + training.optimizer + (training.activations or 0)
    activations = (
        "activations not known"
        if training.activations is None
        else f"activations about {_size(training.activations)}"
    )
    return [
        *lines,
        f"tokens        {training.tokens:,}",
        f"operations    {training.flops:.3g}",
        f"memory        {_size(memory)} a device: weights {_size(training.weights)}, gradients "
        f"{_size(training.gradients)}, optimizer {_size(training.optimizer)}, {activations}"
        f"{_too_much(memory, gpus)}",
        f"checkpoint    {_size(training.checkpoint)}",
        f"time          {_duration(training.seconds)} on {hardware.devices} devices "
        f"at {hardware.utilisation:.0%} of their peak",
    ]


def _too_much(memory: int, gpus: Sequence[Gpu]) -> str:
    least = min((gpu.memory for gpu in gpus), default=memory)
    return f"; more than the {_size(least)} of this machine's GPU" if memory > least else ""


def _size(size: int) -> str:
    amount = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.3g} {unit}"
        amount /= 1024
    return f"{amount:.3g} TiB"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:,.3g} h"
