"""`plugins`: what is installed."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from opendllm.core.cli import plugin_test_command
from opendllm.core.cli.described_options import DescribedOption, described_options, option_lines
from opendllm.core.cli.plugin_names import named_plugin
from opendllm.core.decoding.options import DecoderOptions
from opendllm.core.foundation.heavy_imports import import_model_libraries
from opendllm.registries.discovery import Plugins, installed_plugins
from opendllm.registries.errors import UserError
from opendllm.registries.extension_points import EXTENSION_POINTS
from opendllm.registries.options import BackboneOptions, SamplerOptions
from opendllm.registries.registry import Registration
from opendllm.registries.version import REQUIREMENT, requirement

AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable.")]


def add_to(app: typer.Typer) -> None:
    """Add the command and its subcommand."""
    plugins_app = typer.Typer(invoke_without_command=True, help="What is installed, from which package.")
    plugins_app.callback()(list_plugins)
    plugins_app.command("show")(show)
    plugins_app.command("test")(plugin_test_command.keep_contract)
    app.add_typer(plugins_app, name="plugins")


def list_plugins(
    context: typer.Context,
    as_json: AsJson = False,
    check: Annotated[
        bool, typer.Option("--check", help="Import every implementation too, and see what it is.")
    ] = False,
) -> None:
    """List every plugin by extension point, and those that are broken or in conflict."""
    if context.invoked_subcommand is not None:
        return
    if check:
        import_model_libraries()
    plugins = installed_plugins()
    problems = _problems(plugins, check)
    if as_json:
        listing = {
            kind: [
                _summary(entry) | {"name": plugins.of_kind(kind).name_of(entry)}
                for entry in plugins.of_kind(kind)
            ]
            for kind in EXTENSION_POINTS
        }
        typer.echo(json.dumps({**listing, "problems": problems, "notes": _notes(plugins)}, indent=2))
    else:
        _print_table(plugins, problems)
    if check and problems:
        raise UserError(f"{len(problems)} of the installed plugins cannot be used")


def show(
    plugin: Annotated[
        str,
        typer.Argument(
            metavar="KIND/NAME", help="As in samplers/p2, or p2 where only one has it; or decoder."
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Show a plugin's options, or the decoder's, with types, defaults and meaning."""
    if plugin == "decoder":
        _show_decoder(as_json)
        return
    registration = named_plugin(plugin)
    details: dict[str, Any] = {**_summary(registration), "target": registration.target}
    if issubclass(registration.options, BackboneOptions):
        details["default_sampler"] = registration.options.default_sampler
        details["default_options"] = dict(registration.options.default_options)
    options = described_options(registration.options)
    if as_json:
        typer.echo(json.dumps({**details, "options": [each.as_json() for each in options]}, indent=2))
        return
    typer.echo(f"{registration.kind}/{registration.name}: {registration.summary}")
    typer.echo(f"from {registration.provenance}, {registration.target}")
    if issubclass(registration.options, SamplerOptions):
        typer.echo(f"undoes {' or '.join(sorted(registration.options.destinations))} noise")
    if issubclass(registration.options, BackboneOptions):
        own = [f"-o {name}={value}" for name, value in registration.options.default_options.items()]
        typer.echo(f"decodes by default with {' '.join([registration.options.default_sampler, *own])}")
    _print_options(options)
    if not options:
        typer.echo("\n  no options of its own")


def _show_decoder(as_json: bool) -> None:
    options = described_options(DecoderOptions)
    if as_json:
        typer.echo(json.dumps({"options": [each.as_json() for each in options]}, indent=2))
        return
    typer.echo(
        "decoder: under `generate` in a manifest, -o KEY=VALUE of `platform generate`, with any sampler"
    )
    _print_options(options)


def _print_options(options: list[DescribedOption]) -> None:
    for number, line in enumerate(option_lines(options)):
        typer.echo(f"  {line}" if number % 2 else f"\n  {line}")


def _summary(registration: Registration[Any]) -> dict[str, str]:
    return {
        "name": registration.name,
        "package": registration.provenance.package,
        "version": registration.provenance.version,
        "summary": registration.summary,
    }


def _problems(plugins: Plugins, check: bool) -> list[str]:
    problems = [f"{broken.provenance} ({broken.entry_point}): {broken.error}" for broken in plugins.broken]
    for kind in EXTENSION_POINTS:
        registry = plugins.of_kind(kind)
        for name, told in registry.conflicts().items():
            hooks = "".join(
                f"; the name alone means the built-in one: rename the other in register_{kind} (at "
                f"{each.registered_at})"
                for each in registry.shadowing(name)
            )
            problems += [*told[:-1], told[-1] + hooks]
        for registration in registry if check else ():
            try:
                registration.check()
            except UserError as error:
                problems.append(str(error))
    return problems


def _notes(plugins: Plugins) -> list[str]:
    return [
        f"{package} doesn't say which plugin interface it is for: it is taken in whatever has changed; "
        f"{REQUIREMENT} = {requirement()!r} in its module would say it"
        for package in plugins.unstated
    ]


def _print_table(plugins: Plugins, problems: list[str]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for kind in EXTENSION_POINTS:
        table = Table(title=kind, title_justify="left", title_style="bold", box=None, pad_edge=False)
        for column in ("name", "package", "summary"):
            table.add_column(column, no_wrap=column == "name")
        registry = plugins.of_kind(kind)
        for registration in registry:
            table.add_row(registry.name_of(registration), str(registration.provenance), registration.summary)
        console.print(table)
        console.print()
    for note in _notes(plugins):
        typer.echo(f"note: {note}", err=True)
    for problem in problems:
        typer.echo(f"problem: {problem}", err=True)
