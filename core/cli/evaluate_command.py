"""`evaluate`: a checkpoint on benchmarks, without a manifest."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from opendllm.core.checkpoints.families import backbone_of, stored_block_length
from opendllm.core.checkpoints.files import PROVENANCE_FILE, model_folder, provenance_of
from opendllm.core.checkpoints.pretrained import fetch_config, is_hub_id
from opendllm.core.cli.common_options import AllowCodeExecution, Limit, ProgressStyle
from opendllm.core.cli.generate_command import parse_options
from opendllm.core.cli.run_report import print_report
from opendllm.core.decoding.options import DecoderOptions
from opendllm.core.decoding.settings import default_options, kept_defaults
from opendllm.core.experiment import run_experiment
from opendllm.core.foundation.visible_text import visible
from opendllm.core.launching.stopping import stopping_at_once
from opendllm.core.manifest.experiment_manifest import experiment_of
from opendllm.core.progress.views import shown_progress
from opendllm.registries.discovery import Plugins, installed_plugins
from opendllm.registries.errors import PluginError, UserError
from opendllm.registries.registry import did_you_mean

_ENTRY_OPTIONS = (
    "samples_per_task", "problem_seed", "batch_size", "likelihood_estimator", "likelihood_draws"
)  # fmt: skip
"""Settings of an entry of a manifest's `evaluate`, which every benchmark has here."""
VARIANT = "checkpoint"
"""The one variant's name in the folder of results."""


@dataclass
class _Sorted:
    """Options by what they belong to; those of a benchmark by its name."""

    decoder: dict[str, Any] = field(default_factory=dict)
    sampler: dict[str, Any] = field(default_factory=dict)
    entry: dict[str, Any] = field(default_factory=dict)
    benchmarks: dict[str, dict[str, Any]] = field(default_factory=dict)


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(evaluate)


def evaluate(
    checkpoint: Annotated[
        str, typer.Argument(help="A run's variant, a checkpoint, a model folder, or a hub id.")
    ],
    benchmark: Annotated[
        list[str], typer.Option(metavar="NAME", help="As in `platform plugins`; may be repeated.")
    ],
    sampler: Annotated[
        str | None,
        typer.Option(
            help="By default the one of the model's authors, with their options (platform plugins show "
            "backbones/NAME); one that is named begins with its own."
        ),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--option",
            "-o",
            metavar="KEY=VALUE",
            help="Of the decoder, the sampler, how benchmarks are asked (samples_per_task, ...), or of every "
            "benchmark that has such an option.",
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="By default 0, or that of the checkpoint's run."),
    ] = None,
    limit: Limit = None,
    allow_code_execution: AllowCodeExecution = False,
    output: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Of the results; by default runs/evaluation-of-CHECKPOINT."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    progress: ProgressStyle = None,
) -> None:
    """Evaluate a checkpoint on benchmarks: the same results as a run's, without a manifest.

    Held-out texts are those of the checkpoint's own run, where it comes from one.
    """
    plugins = installed_plugins()
    for name in benchmark:
        plugins.benchmarks.get(name)
    folder = fetch_config(checkpoint)
    family = backbone_of(plugins, folder)
    registration = plugins.samplers.get(sampler or family.options.default_sampler)
    chosen = registration.name
    options = _sorted(parse_options(option or []), plugins, chosen, benchmark)
    defaults: dict[str, Any] = {}
    if sampler is None:
        stored = stored_block_length(folder, family.options)
        asked = {**options.decoder, **options.sampler}
        defaults = kept_defaults(asked, default_options(family.options, stored), registration)
    authors = _sorted(defaults, plugins, chosen, ())
    own = {**authors.sampler, **options.sampler}
    # The default is named where it has options only: a benchmark may be one that has nothing written.
    named = {"sampler": {"name": chosen, "options": own}} if sampler or own else {}
    manifest = {
        **_of_its_run(folder, plugins),
        "name": _name(checkpoint),
        "device": device,
        "generate": {**authors.decoder, **options.decoder, **named},
        "evaluate": [
            {"benchmark": {"name": name, "options": options.benchmarks[name]}, **options.entry}
            for name in benchmark
        ],
        "allow_code_execution": allow_code_execution,
        **({} if seed is None else {"seed": seed}),
        **({} if output is None else {"output": str(output)}),
    }
    model = manifest.setdefault("model", {"backbone": {"name": family.name, "options": {}}})
    path = checkpoint if is_hub_id(checkpoint) and not folder.exists() else str(model_folder(folder))
    model["backbone"]["options"]["pretrained"] = path
    with stopping_at_once():
        experiment = experiment_of(manifest, "platform evaluate", VARIANT, plugins)
        with shown_progress(progress, experiment.output) as shown:
            run_experiment(experiment, ["evaluate", "report"], limit=limit, progress=shown)
    print_report(experiment.output)


def _of_its_run(folder: Path, plugins: Plugins) -> dict[str, Any]:
    """The model, data and seed of the run that a checkpoint comes from; nothing of any other checkpoint."""
    checkpoint = model_folder(folder).parent
    if not (checkpoint / PROVENANCE_FILE).is_file():
        return {}
    manifest = provenance_of(checkpoint).get("manifest")
    if not isinstance(manifest, dict):
        raise UserError(f"{checkpoint / PROVENANCE_FILE} is damaged: it has no manifest")
    kept = {key: manifest[key] for key in ("model", "data", "seed") if manifest.get(key) is not None}
    # What its files say of themselves holds; a preset, say, is for a model that is built.
    backbone = kept["model"]["backbone"]["name"]
    kept["model"] = {**kept["model"], "backbone": {"name": backbone, "options": {}}}
    data = kept.get("data") or {}
    named = [part["corpus"]["name"] for part in [data, *data.get("mixture", [])] if part.get("corpus")]
    missing = next((name for name in named if not _is_installed(plugins, name)), None)
    if missing is not None:
        kept.pop("data")
        note = f"the checkpoint was trained on corpus {missing}, whose plugin isn't installed here"
        typer.echo(visible(f"note: {note}: no benchmark can read its held-out texts"), err=True)
    return kept


def _is_installed(plugins: Plugins, corpus: str) -> bool:
    try:
        plugins.corpora.get(corpus)
    except PluginError:
        return False
    return True


def _sorted(given: Mapping[str, Any], plugins: Plugins, sampler: str, benchmarks: Sequence[str]) -> _Sorted:
    """Each option where it belongs.

    Raises:
        UserError: nothing has an option of that name.
    """
    of_sampler = plugins.samplers.get(sampler).options.model_fields
    of_benchmarks = {name: plugins.benchmarks.get(name).options.model_fields for name in benchmarks}
    found = _Sorted(benchmarks={name: {} for name in benchmarks})
    for key, value in given.items():
        takers = [
            *([found.decoder] if key in DecoderOptions.model_fields else []),
            *([found.sampler] if key in of_sampler else []),
            *([found.entry] if key in _ENTRY_OPTIONS else []),
            *(found.benchmarks[name] for name, fields in of_benchmarks.items() if key in fields),
        ]
        if not takers:
            known = [*DecoderOptions.model_fields, *of_sampler, *_ENTRY_OPTIONS]
            known += [name for fields in of_benchmarks.values() for name in fields]
            raise UserError(
                f"-o {key}: neither the decoder, sampler {sampler!r} nor {' or '.join(benchmarks)} has such "
                f"an option: {did_you_mean(key, sorted(set(known)))}"
            )
        for options in takers:
            options[key] = value
    return found


def _name(checkpoint: str) -> str:
    """The results' folder is called after the checkpoint."""
    parts = [part for part in Path(checkpoint).absolute().parts if part not in ("checkpoints", "model")]
    written = "-".join(parts[-2:]) if Path(checkpoint).exists() else checkpoint
    return "evaluation-of-" + re.sub(r"[^A-Za-z0-9._-]+", "-", written).strip("-")
