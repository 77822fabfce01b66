"""`new-plugin`: a package to begin with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from opendllm.core.scaffold.new_plugin import kinds, write_plugin
from opendllm.registries.discovery import installed_plugins


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command(name="new-plugin")(new_plugin)


def new_plugin(
    name: Annotated[str, typer.Argument(help="Of the folder, the package and the plugin, as in my-sampler.")],
    kind: Annotated[str, typer.Option(help=f"One of {', '.join(kinds())}; `sampler` will do as well.")],
) -> None:
    """Write a package with one plugin that works: its options, its code, its test, a manifest with it."""
    folder = write_plugin(name, kind, Path(), installed_plugins())
    typer.echo(f"{folder}: a package with the plugin {name}, which works as it is; then:")
    typer.echo(f"  pip install -e './{folder}[dev]'")
    typer.echo(f"  pytest {folder}")
    typer.echo(f"  platform run {folder}/compare.yaml")
