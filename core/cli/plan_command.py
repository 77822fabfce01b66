"""`plan`: what an experiment will cost."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from opendllm.core.manifest.experiment_manifest import read_experiment
from opendllm.core.planning.plan import Hardware, Plan, plan
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
        typer.Option(min=0.001, help="Of one device; by default an H100's in the manifest's precision."),
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
    hardware = Hardware(devices, peak_tflops, utilisation)
    plans = {variant.name: plan(variant, hardware) for variant in experiment.variants}
    if as_json:
        content = {name: _content(found) for name, found in plans.items()}
        typer.echo(json.dumps(content, indent=2))
        return
    for name, found in plans.items():
        typer.echo(f"{name}\n" + "\n".join(f"  {line}" for line in _lines(found, hardware)))


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


def _lines(found: Plan, hardware: Hardware) -> list[str]:
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
        f"{_size(training.gradients)}, optimizer {_size(training.optimizer)}, {activations}",
        f"checkpoint    {_size(training.checkpoint)}",
        f"time          {_duration(training.seconds)} on {hardware.devices} devices "
        f"at {hardware.utilisation:.0%} of their peak",
    ]


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
