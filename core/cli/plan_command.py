"""`plan`: what an experiment will cost."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from opendllm.core.cli.plan_lines import Here, content_of, lines_of
from opendllm.core.foundation.heavy_imports import uncollected
from opendllm.core.manifest.experiment_manifest import read_experiment
from opendllm.core.planning.cpu_speed import this_cpu
from opendllm.core.planning.devices import ASSUMED, KNOWN, Device, Gpu, gpus_here, this_machine
from opendllm.core.planning.experiment_plan import plan_experiment
from opendllm.core.planning.hardware import Hardware
from opendllm.registries.discovery import installed_plugins


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("plan")(plan_manifest)


def plan_manifest(
    manifest: Annotated[Path, typer.Argument(help="The experiment's YAML file.")],
    devices: Annotated[
        int, typer.Option(min=1, help="How many train together; each evaluates its share.")
    ] = 1,
    peak_tflops: Annotated[
        float | None,
        typer.Option(min=0.001, help="Of one device; by default that of this machine's GPU, or an H100's."),
    ] = None,
    utilisation: Annotated[
        float, typer.Option(min=0.001, max=1, help="Share of the peak that is reached.")
    ] = 0.4,
    ask_benchmarks: Annotated[
        bool,
        typer.Option(
            "--ask-benchmarks",
            help="Load benchmarks and count what they ask, in place of published sizes; may download.",
        ),
    ] = False,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one value.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Print what each variant costs: size, training, benchmarks, memory a device, time, disk and download."""
    experiment = read_experiment(manifest, settings or [], installed_plugins())
    gpus = gpus_here()
    known = next((gpu for gpu in gpus if gpu.model), None)
    device, why = _device(known, gpus, peak_tflops)
    hardware = Hardware(devices, device, utilisation)
    # Without a GPU, or told so, it would run on the CPU: what that would take, beside the other device's.
    on_gpu = gpus and any(variant.manifest.device != "cpu" for variant in experiment.variants)
    cpu = None if on_gpu else Hardware(1, this_cpu(), utilisation)
    with uncollected():  # of the samplers, which are asked for their plans, torch is part
        found = plan_experiment(experiment.variants, hardware, ask_benchmarks)
        on_cpu = None if cpu is None else plan_experiment(experiment.variants, cpu, ask_benchmarks)
    here = Here(hardware, why, this_machine(gpus), cpu, on_cpu)
    if as_json:
        typer.echo(json.dumps(content_of(experiment.variants, found, here), indent=2))
        return
    for line in lines_of(experiment.variants, found, here):
        typer.echo(line)


def _device(known: Gpu | None, gpus: list[Gpu], peak_tflops: float | None) -> tuple[Device, str]:
    """The one that is planned for, and why that one."""
    device = KNOWN[(known and known.model) or ASSUMED]
    if gpus:
        like = [gpu for gpu in gpus if known is None or gpu.model == known.model]
        device = replace(device, memory=min(gpu.memory for gpu in like))
        if known is None:
            device = replace(device, name=gpus[0].name)
    if peak_tflops is not None:
        operations = dict.fromkeys(device.operations, peak_tflops * 1e12)
        said = f"{device.name} with {peak_tflops:g} TFLOP/s, as --peak-tflops says"
        return replace(device, operations=operations), said
    if known is not None:
        return device, f"{device.name}, as in this machine"
    if gpus:
        return device, f"{device.name}, as fast as an {ASSUMED}, for all that is known: see --peak-tflops"
    return device, f"{device.name}, assumed: --peak-tflops says what another one reaches"
