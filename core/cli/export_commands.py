"""`export` and `push`: checkpoints for others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(export)
    app.command()(push)


def export(
    checkpoint: Annotated[Path, typer.Argument(help="A run's variant, or a checkpoint.")],
    to: Annotated[Path, typer.Option(metavar="DIR", help="A folder that doesn't exist yet.")],
) -> None:
    """Write a folder that transformers and the authors' own code load."""
    from opendllm.core.checkpoints.export import export_model

    export_model(checkpoint, to)
    typer.echo(f"exported: {to}")


def push(
    checkpoint: Annotated[Path, typer.Argument(help="A run's variant, or a checkpoint.")],
    repository: Annotated[str, typer.Argument(metavar="REPO", help="As in my-name/my-model.")],
    private: Annotated[bool, typer.Option("--private", help="Make the repository private.")] = False,
) -> None:
    """Export a checkpoint and upload it to the Hugging Face hub; HF_TOKEN must be set."""
    from opendllm.core.checkpoints.export import push_model

    typer.echo(f"pushed: {push_model(checkpoint, repository, private)}")
