"""`evaluate`: a checkpoint, or a server's model, on benchmarks, without a manifest."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from opendllm.core.checkpoints.families import backbone_of, stored_block_length
from opendllm.core.checkpoints.files import PROVENANCE_FILE, model_folder, provenance_of
from opendllm.core.checkpoints.pretrained import fetch_config, is_hub_id
from opendllm.core.cli.common_options import AllowCodeExecution, Limit, ProgressStyle
from opendllm.core.cli.generate_command import parse_options
from opendllm.core.cli.run_report import print_report
from opendllm.core.cli.sorted_options import SortedOptions, sorted_options
from opendllm.core.decoding.settings import default_options, kept_defaults
from opendllm.core.experiment import run_experiment
from opendllm.core.foundation.visible_text import visible
from opendllm.core.launching.stopping import stopping_at_once
from opendllm.core.manifest.experiment_manifest import experiment_of
from opendllm.core.progress.views import shown_progress
from opendllm.registries.discovery import Plugins, installed_plugins
from opendllm.registries.errors import PluginError, UserError

VARIANT, SERVED_VARIANT = "checkpoint", "endpoint"
"""The one variant's name in the folder of results."""


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(evaluate)


def evaluate(
    benchmark: Annotated[
        list[str], typer.Option(metavar="NAME", help="As in `platform plugins`; may be repeated.")
    ],
    checkpoint: Annotated[
        str | None, typer.Argument(help="A run's variant, a checkpoint, a model folder, or a hub id.")
    ] = None,
    endpoint: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="In place of a checkpoint, a server that speaks OpenAI's completions API."
        ),
    ] = None,
    model: Annotated[str | None, typer.Option(metavar="NAME", help="Of the model there.")] = None,
    token_env: Annotated[
        str | None,
        typer.Option(metavar="VARIABLE", help="The environment variable that holds the server's token."),
    ] = None,
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
            help="Of the decoder, the sampler, how benchmarks are asked (samples_per_task, ...) or a server "
            "is (concurrency, timeout, ...), or of every benchmark that has such an option.",
        ),
    ] = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="Put each prompt into the checkpoint's chat template.")
    ] = False,
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
    """Evaluate a checkpoint, or a server's model, on benchmarks: a run's results, without a manifest.

    Held-out texts are those of the checkpoint's own run, where it comes from one.
    """
    plugins = installed_plugins()
    for name in benchmark:
        plugins.benchmarks.get(name)
    given = parse_options(option or [])
    entries: dict[str, Any] = {
        "allow_code_execution": allow_code_execution,
        **({} if seed is None else {"seed": seed}),
        **({} if output is None else {"output": str(output)}),
    }
    if checkpoint is not None:
        _refuse(
            {"--endpoint": endpoint, "--model": model, "--token-env": token_env}, "a checkpoint is evaluated"
        )
        manifest = _of_checkpoint(checkpoint, (sampler, given), plugins, benchmark)
        manifest["generate"]["chat"] = chat
        entries["device"] = device
    else:
        _refuse({"--sampler": sampler, "--device": None if device == "auto" else device}, "a server decodes")
        if endpoint is None or model is None:
            raise UserError("give a checkpoint, or a server's --endpoint and its --model")
        if chat:
            raise UserError("--chat has no effect where a server writes the prompts: write -o api=chat")
        server = {
            "endpoint": endpoint,
            "model": model,
            **({} if token_env is None else {"token_env": token_env}),
        }
        manifest = _of_server(server, given, plugins, benchmark)
    with stopping_at_once():
        name = SERVED_VARIANT if checkpoint is None else VARIANT
        experiment = experiment_of({**manifest, **entries}, "platform evaluate", name, plugins)
        with shown_progress(progress, experiment.output) as shown:
            run_experiment(experiment, ["evaluate", "report"], limit=limit, progress=shown)
    print_report(experiment.output)


def _refuse(options: Mapping[str, str | None], why: str) -> None:
    """What has no effect.

    Raises:
        UserError: it was given.
    """
    for name, value in options.items():
        if value is not None:
            raise UserError(f"{name} has no effect where {why}: leave it out")


def _of_server(
    server: Mapping[str, Any], given: Mapping[str, Any], plugins: Plugins, benchmark: Sequence[str]
) -> dict[str, Any]:
    """The manifest that asks a server."""
    options = sorted_options(given, plugins, None, benchmark)
    return {
        "name": _folder_of(server["model"]),
        "model": {**server, **options.endpoint},
        "generate": options.decoder,
        "evaluate": _entries(options, benchmark),
    }


def _entries(options: SortedOptions, benchmark: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {"benchmark": {"name": name, "options": options.benchmarks[name]}, **options.entry}
        for name in benchmark
    ]


def _of_checkpoint(
    checkpoint: str,
    decoding: tuple[str | None, Mapping[str, Any]],
    plugins: Plugins,
    benchmark: Sequence[str],
) -> dict[str, Any]:
    """The manifest that evaluates a checkpoint; `decoding` is the sampler that was asked for, and options."""
    sampler, given = decoding
    folder = fetch_config(checkpoint)
    family = backbone_of(plugins, folder)
    registration = plugins.samplers.get(sampler or family.options.default_sampler)
    chosen = registration.name
    options = sorted_options(given, plugins, chosen, benchmark)
    defaults: dict[str, Any] = {}
    if sampler is None:
        stored = stored_block_length(folder, family.options)
        asked = {**options.decoder, **options.sampler}
        defaults = kept_defaults(asked, default_options(family.options, stored), registration)
    authors = sorted_options(defaults, plugins, chosen, ())
    own = {**authors.sampler, **options.sampler}
    # The default is named where it has options only: a benchmark may be one that has nothing written.
    named = {"sampler": {"name": chosen, "options": own}} if sampler or own else {}
    manifest = {
        **_of_its_run(folder, plugins),
        "name": _name(checkpoint),
        "generate": {**authors.decoder, **options.decoder, **named},
        "evaluate": _entries(options, benchmark),
    }
    model = manifest.setdefault("model", {"backbone": {"name": family.name, "options": {}}})
    path = checkpoint if is_hub_id(checkpoint) and not folder.exists() else str(model_folder(folder))
    model["backbone"]["options"]["pretrained"] = path
    return manifest


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


def _name(checkpoint: str) -> str:
    """The results' folder is called after the checkpoint."""
    parts = [part for part in Path(checkpoint).absolute().parts if part not in ("checkpoints", "model")]
    written = "-".join(parts[-2:]) if Path(checkpoint).exists() else checkpoint
    return _folder_of(written)


def _folder_of(model: str) -> str:
    return "evaluation-of-" + re.sub(r"[^A-Za-z0-9._-]+", "-", model).strip("-")
