"""A package with one plugin, out of the templates of its kind.

A kind is a folder in `plugin-templates`: `kind.toml`, and files that are rendered by jinja2. Those of
`common` are written for every kind. In their paths `package` is the new package, and `dot-` a leading dot.
The dash in `plugin-templates` tells setuptools that it holds data, not packages.
"""

from __future__ import annotations

import shutil
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from opendllm.core.foundation.atomic_files import writing
from opendllm.core.scaffold.plugin_name import PluginName, plugin_name
from opendllm.registries.discovery import Plugins
from opendllm.registries.errors import UserError
from opendllm.registries.extension_points import spelt_alike
from opendllm.registries.machine_errors import in_words
from opendllm.registries.suggestions import did_you_mean
from opendllm.registries.version import requirement

TEMPLATES = Path(__file__).parent / "plugin-templates"
COMMON = "common"
KIND_FILE = "kind.toml"
SUFFIX = ".j2"


@dataclass(frozen=True)
class Kind:
    """A kind of plugin that there are templates for.

    Attributes:
        name: of its folder, and what a sentence calls one.
        extension_point: of the registries.
        contract: the class of `opendllm.core.testing`.
        module: of the implementation, a file's stem.
    """

    name: str
    extension_point: str
    contract: str
    module: str


def kinds() -> list[str]:
    """The kinds that there are templates for, by the names of their extension points, sorted."""
    return sorted(_templates())


def _templates() -> dict[str, Kind]:
    """By extension point."""
    found = [
        Kind(file.parent.name, **tomllib.loads(file.read_text(encoding="utf-8")))
        for file in TEMPLATES.glob(f"*/{KIND_FILE}")
    ]
    return {kind.extension_point: kind for kind in found}


def write_plugin(name: str, kind: str, parent: Path, plugins: Plugins) -> Path:
    """Write a package with one plugin.

    Args:
        name: of the folder, the distribution and the plugin.
        kind: one of `kinds`, or as people write it too: `sampler`, `noise-schedule`.
        parent: where the folder is made.
        plugins: what is installed.

    Returns:
        The new folder.

    Raises:
        UserError: there is no such kind, the name won't do, the folder is there already or can't be written.
    """
    templates = _templates()
    meant = spelt_alike(kind)
    if meant not in templates:
        raise UserError(f"--kind {kind}: no such kind of plugin; {did_you_mean(kind, kinds())}")
    chosen = templates[meant]
    checked = plugin_name(name, chosen.name, chosen.extension_point, plugins)
    folder = parent / name
    try:
        folder.mkdir()
    except FileExistsError as error:
        raise UserError(f"{folder} is there already: choose another name, or move it away") from error
    except OSError as error:
        raise UserError(f"{folder} cannot be made: {in_words(error)}") from error
    try:
        for path, text in _files(checked, chosen):
            with writing(folder / path):
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_text(text, encoding="utf-8")
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise UserError(f"{error.filename} cannot be written: {in_words(error)}") from error
    return folder


def _files(name: PluginName, kind: Kind) -> Iterator[tuple[Path, str]]:
    """(path below the new folder, text) of every file."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        autoescape=False,  # noqa: S701  (what is written is Python and YAML)
    )
    for source in (COMMON, kind.name):
        for template in sorted((TEMPLATES / source).rglob(f"*{SUFFIX}")):
            inside = template.relative_to(TEMPLATES)
            text = environment.get_template(inside.as_posix()).render(
                name=name, kind=kind, version=version("open-dllm"), interface=requirement()
            )
            yield _target(inside, name), text


def _target(inside: Path, name: PluginName) -> Path:
    renamed = {"package": name.package, "test_package.py": f"test_{name.package}.py"}
    parts = [part.removesuffix(SUFFIX) for part in inside.parts[1:]]
    parts = [renamed.get(part, part) for part in parts]
    return Path(*(f".{part.removeprefix('dot-')}" if part.startswith("dot-") else part for part in parts))
