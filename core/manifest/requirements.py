"""What a manifest requires to be installed: packages of plugins, or plugins, with their versions."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterator

from opendllm.core.manifest.checks import Issue
from opendllm.core.manifest.sources import Source
from opendllm.registries.discovery import Plugins
from opendllm.registries.errors import PluginError
from opendllm.registries.version import fits

_PACKAGE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
"""What a package's name looks like (PEP 508)."""


def requirement_issues(source: Source, plugins: Plugins) -> Iterator[Issue]:
    """What is not installed, or in another version than `require` says."""
    required = source.data.get("require")
    if required is None:
        return
    location = source.location(("require",))
    if not isinstance(required, dict):
        yield Issue(location, "require", "map packages or KIND/NAME to versions, as in `my-sampler: '>=0.2'`")
        return
    for name, specifier in required.items():
        issue = _issue(str(name), specifier, plugins)
        if issue is not None:
            yield Issue(source.location(("require", name)), f"require.{name}", issue)


def _issue(name: str, specifier: object, plugins: Plugins) -> str | None:
    kind, slash, plugin = name.partition("/")
    if not (slash or _PACKAGE.fullmatch(name)):
        return "name a package, or a plugin as KIND/NAME"
    if not isinstance(specifier, str):
        given = "null" if specifier is None else repr(specifier)
        example = f"'>={specifier}'" if type(specifier) in (int, float) else "'>=0.2'"
        return f"write its versions as text, as in {example} (given: {given})"
    try:
        fits("0", specifier, "the version")  # whether it is a specifier, whatever is installed
        if slash:
            provenance = plugins.of_kind(kind).get(plugin).provenance
            package, version = provenance.package, provenance.version
        else:
            package, version = name, importlib.metadata.version(name)
        if fits(version, specifier, "the version"):
            return None
    except PluginError as error:
        return str(error)
    except importlib.metadata.PackageNotFoundError:
        return f"the package isn't installed: pip install '{name}{specifier}'"
    return (
        f"{package} {version} is installed, and {specifier} is required: pip install '{package}{specifier}'"
    )
