"""The names that a new plugin's parts have, and which ones would do harm."""

from __future__ import annotations

import importlib.util
import keyword
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution

from opendllm.registries.discovery import Plugins
from opendllm.registries.errors import UserError
from opendllm.registries.registry import NAME_PATTERN, OWN_PACKAGE

MAX_LENGTH = 40
YAML_WORDS = frozenset({"null", "true", "false"})
"""What a manifest reads as no text."""


@dataclass(frozen=True)
class PluginName:
    """One name, as each part spells it.

    Attributes:
        plugin: what a manifest says, and the folder and the distribution are called: `my-sampler`.
        package: what Python imports: `my_sampler`.
        class_name: of its implementation: `MySampler`.
    """

    plugin: str
    package: str
    class_name: str


def plugin_name(name: str, kind: str, extension_point: str, plugins: Plugins) -> PluginName:
    """Check a new plugin's name.

    Args:
        name: as the user gave it.
        kind: `sampler`, `noise-schedule`, ...
        extension_point: of that kind, `samplers`.
        plugins: what is installed.

    Raises:
        UserError: it isn't of the form of a name, means something else in Python, or is taken.
    """
    package = name.replace("-", "_")
    if not NAME_PATTERN.fullmatch(name) or not name[0].isalpha():
        raise UserError(
            f"{name!r} is no name for a plugin: lower-case letters, digits and single dashes, a letter "
            f"first, as in my-{kind}"
        )
    if len(name) > MAX_LENGTH:
        raise UserError(f"{name!r} is too long for a plugin's name: at most {MAX_LENGTH} characters")
    if name == kind or keyword.iskeyword(package) or name in YAML_WORDS:
        raise UserError(f"{name!r} means something already: choose a name of its own, as in my-{kind}")
    registry = plugins.of_kind(extension_point)
    for registration in registry:
        if registration.name == name:
            whose = "built in" if registration.provenance.package == OWN_PACKAGE else "installed"
            raise UserError(
                f"{extension_point}/{name} is {whose} already ({registration.provenance}): a manifest that "
                f"says {name} would mean that one; choose another name"
            )
    if _is_taken(name, package):
        raise UserError(
            f"a package {name} or a module {package} is installed already, and Python would import only one "
            f"of them: choose another name"
        )
    suffix = "".join(part.capitalize() for part in kind.split("-"))
    words = "".join(part.capitalize() for part in name.split("-"))
    return PluginName(name, package, words if words.endswith(suffix) else words + suffix)


def _is_taken(name: str, package: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return importlib.util.find_spec(package) is not None
    return True
