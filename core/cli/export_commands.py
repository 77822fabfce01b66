"""`export` and `push`: checkpoints for others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from opendllm.core.checkpoints.files import chosen_checkpoint
from opendllm.core.foundation.heavy_imports import import_model_libraries

MaxShardSize = Annotated[
    str, typer.Option(metavar="SIZE", help="Of the weights in one file, as in 5GB or 200MB.")
]

Step = Annotated[int | None, typer.Option(min=0, help="Of a variant's checkpoints; the last by default.")]
Unfinished = Annotated[
    bool, typer.Option("--unfinished", help="Take a variant's last checkpoint though the run isn't finished.")
]


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(export)
    app.command()(push)


def export(
    checkpoint: Annotated[Path, typer.Argument(help="A run's variant, or a checkpoint.")],
    to: Annotated[Path, typer.Option(metavar="DIR", help="A folder that doesn't exist yet.")],
    max_shard_size: MaxShardSize = "5GB",
    step: Step = None,
    unfinished: Unfinished = False,
) -> None:
    """Write a folder that transformers and the authors' own code load."""
    chosen = chosen_checkpoint(checkpoint, step, unfinished)
    import_model_libraries()
    from opendllm.core.checkpoints.export import export_model

    export_model(chosen, to, max_shard_size)
    typer.echo(f"exported: {to}")


def push(
    checkpoint: Annotated[Path, typer.Argument(help="A run's variant, or a checkpoint.")],
    repository: Annotated[str, typer.Argument(metavar="REPO", help="As in my-name/my-model.")],
    private: Annotated[bool, typer.Option("--private", help="Make the repository private.")] = False,
    max_shard_size: MaxShardSize = "5GB",
    step: Step = None,
    unfinished: Unfinished = False,
) -> None:
    """Export a checkpoint and upload it to the Hugging Face hub; HF_TOKEN must be set."""
    chosen = chosen_checkpoint(checkpoint, step, unfinished)
    import_model_libraries()
    from opendllm.core.checkpoints.export import push_model

    typer.echo(f"pushed: {push_model(chosen, repository, private, max_shard_size)}")
