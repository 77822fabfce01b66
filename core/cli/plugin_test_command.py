"""`plugins test`: the contract of an installed plugin, without a test file."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from opendllm.core.cli.generate_command import parse_options
from opendllm.core.cli.plugin_names import named_plugin
from opendllm.core.foundation.option_errors import checked_options
from opendllm.core.testing import contract_name
from opendllm.registries.errors import UserError

_FILE = """from opendllm.core.testing import {contract}


class TestPlugin({contract}):
    plugin = {plugin!r}
    options = {options!r}
"""


def keep_contract(
    plugin: Annotated[str, typer.Argument(metavar="KIND/NAME", help="As in samplers/p2.")],
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--option", "-o", metavar="KEY=VALUE", help="To build it with; by default each of its examples."
        ),
    ] = None,
) -> None:
    """Hold a plugin against its extension point's contract; needs the extra `testing`.

    Tests that a declaration of the plugin makes void are listed with that declaration.
    """
    registration = named_plugin(plugin)
    options = parse_options(option or [])
    if options:
        checked_options(registration.options, options)
    if importlib.util.find_spec("pytest") is None:
        raise UserError("plugins test needs pytest: pip install 'open-dllm[testing]'")
    registration.check()  # what can't be built would fail all tests alike
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "test_contract.py"
        contract = contract_name(registration.kind, registration.options)
        file.write_text(
            _FILE.format(contract=contract, plugin=registration.qualified_name, options=options or None)
        )
        found = subprocess.run(
            [
                sys.executable, "-m", "pytest", str(file), "-q", "-rfEs", "--tb=line", "--no-header",
                "-c", os.devnull, "--rootdir", folder, "-p", "no:cacheprovider",
            ],
            check=False,
        )  # fmt: skip
    if found.returncode:
        typer.echo(f"{registration.owner} doesn't keep its contract: see {contract} in opendllm.core.testing")
        raise typer.Exit(1)
    typer.echo(f"{registration.owner} keeps its contract")
