"""`run`, `validate`, `schema` and `report`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from opendllm.core.cli.common_options import AllowCodeExecution, Limit, ProgressStyle
from opendllm.core.cli.run_report import print_report
from opendllm.core.experiment import STAGES, run_experiment
from opendllm.core.launching.launcher import (
    Launcher,
    check_launcher,
    parse_launcher,
    processes_of_this_machine,
    set_environment,
)
from opendllm.core.launching.stopping import stopping_at_once
from opendllm.core.manifest.experiment_manifest import Experiment, read_experiment
from opendllm.core.manifest.json_schema import manifest_schema
from opendllm.core.manifest.schema import Launch
from opendllm.core.planning.needs import check_here
from opendllm.core.progress.views import shown_progress
from opendllm.core.training.settings import batch_shape
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.errors import UserError
from opendllm.registries.suggestions import did_you_mean

Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override one value, as in --set train.steps=50."),
]


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(run)
    app.command()(validate)
    app.command()(schema)
    app.command()(report)


def run(
    manifest: Annotated[Path, typer.Argument(help="The experiment's YAML file.")],
    only: Annotated[str | None, typer.Option(metavar="STAGES", help="Some of train,evaluate,report.")] = None,
    variant: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only this variant; may be repeated.")
    ] = None,
    limit: Limit = None,
    allow_code_execution: AllowCodeExecution = False,
    extend: Annotated[
        bool,
        typer.Option("--extend", help="Go on from the newest checkpoint to a train.steps that was raised."),
    ] = False,
    settings: Settings = None,
    launcher: Annotated[
        str | None,
        typer.Option(
            metavar="HOW",
            help="local[:N] starts N processes here, torchrun is under one that is there, "
            "slurm[:N] submits a job.",
        ),
    ] = None,
    progress: ProgressStyle = None,
) -> None:
    """Run an experiment: train, evaluate and report. Continues a run that is there."""
    stages = list(STAGES) if only is None else only.split(",")
    for stage in stages:
        if stage not in STAGES:
            raise UserError(f"--only {only}: no stage {stage!r}; {did_you_mean(stage, list(STAGES))}")
    if extend and "train" not in stages:
        raise UserError(f"--extend trains, which --only {only} leaves out")
    with stopping_at_once():
        overrides = [*(settings or []), *(["allow_code_execution=true"] if allow_code_execution else [])]
        experiment = read_experiment(manifest, overrides, installed_plugins())
        chosen_launcher = None if launcher is None else parse_launcher(launcher)
        check_launcher(chosen_launcher, experiment.launch)
        set_environment(experiment.launch)
        if chosen_launcher is not None and chosen_launcher.kind != "torchrun":
            _launch(chosen_launcher, experiment)
            return
        with shown_progress(progress, experiment.output) as shown:
            folder = run_experiment(
                experiment,
                [stage for stage in STAGES if stage in stages],
                variant or [],
                limit,
                extend=extend,
                progress=shown,
            )
    if "report" in stages:
        print_report(folder)


def _launch(launcher: Launcher, experiment: Experiment) -> None:
    launch = experiment.launch or Launch()
    processes = launcher.processes or launch.processes_per_node
    if launcher.kind == "local":
        processes = processes or processes_of_this_machine()
    for variant in experiment.variants:
        if variant.manifest.train is not None and processes is not None:
            batch_shape(variant.manifest.train, launch.nodes * processes)  # sooner than in each of them
    if launcher.kind == "slurm":
        from opendllm.core.launching.slurm import submit

        typer.echo(submit(experiment.name, experiment.output, launch, processes))
        return
    from opendllm.core.launching.local import run_here

    run_here(launch, processes or 1)


def validate(
    manifests: Annotated[list[Path], typer.Argument(help="YAML files.")],
    settings: Settings = None,
) -> None:
    """Check manifests and their plugins' options, without running anything."""
    plugins = installed_plugins()
    problems = []
    for manifest in manifests:
        try:
            experiment = read_experiment(manifest, settings or [], plugins)
            check_here(experiment.variants)
        except UserError as error:
            problems.append(str(error))
        else:
            names = ", ".join(variant.name for variant in experiment.variants)
            typer.echo(f"{manifest}: valid; variants: {names}")
    if problems:
        raise UserError("\n".join(problems))


def schema() -> None:
    """Print the manifest's JSON Schema, for editors."""
    typer.echo(json.dumps(manifest_schema(installed_plugins()), indent=2))


def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.")],
    output: Annotated[
        Path | None, typer.Option(help="Where to write; by default the run folder, if there is one only.")
    ] = None,
) -> None:
    """Write results.json, report.md and report.html of one run, or of several side by side."""
    from opendllm.core.reporting.write import write_report

    written = write_report(*runs, output=output)
    typer.echo(f"report: {written.html}")
