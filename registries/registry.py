"""Registries: from a plugin's name to its options model and its lazily imported implementation."""

from __future__ import annotations

import difflib
import importlib
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from opendllm.registries.errors import PluginError
from opendllm.registries.options import (
    BackboneOptions,
    ObjectiveOptions,
    PluginOptions,
    SamplerOptions,
)
from opendllm.registries.plugin_calls import Blame, watched
from opendllm.registries.source_lines import where_defined, where_raised
from opendllm.registries.typed_options import untyped_options

ContractT = TypeVar("ContractT")
OptionsT = TypeVar("OptionsT", bound=PluginOptions)

NAME_PATTERN = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
OPTIONS_BASES: Mapping[str, type[PluginOptions]] = {
    "backbones": BackboneOptions,
    "objectives": ObjectiveOptions,
    "samplers": SamplerOptions,
}
"""What the options of a kind derive from, where that is more than PluginOptions."""
OWN_PACKAGE = "open-dllm"
"""The package that brings the built-in plugins."""
TARGET_PATTERN = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


class PluginWarning(UserWarning):
    """A name means another plugin than somebody may think."""


def did_you_mean(name: str, known: list[str]) -> str:
    """A hint that completes an error message: the nearest known names, or all of them."""
    near = difflib.get_close_matches(name, known, n=2, cutoff=0.6)
    # In a name of two letters one wrong letter is half of it.
    near = near or [other for other in known if len(name) == len(other) == 2 and other[0] == name[0]]
    if near:
        return f"did you mean {' or '.join(repr(match) for match in near)}?"
    return f"known: {', '.join(sorted(known)) or 'none'}"


def one_line(error: BaseException) -> str:
    """What an error says, on one line, with its type unless it is one of ours."""
    message = " ".join(str(error).split())
    return message if isinstance(error, PluginError) else f"{type(error).__name__}: {message}"


@dataclass(frozen=True)
class Provenance:
    """The installed package that a plugin comes from."""

    package: str
    version: str

    def __str__(self) -> str:
        return f"{self.package} {self.version}"


@dataclass(frozen=True)
class Registration(Generic[ContractT]):
    """One plugin: known by name and options at once, imported when first built.

    Raises:
        PluginError: name, options model or target are not of the required form.
    """

    kind: str
    name: str
    options: type[PluginOptions]
    target: str
    summary: str
    provenance: Provenance
    registered_at: str = field(default="", compare=False)
    """FILE:LINE of the hook's call, for messages."""

    def __post_init__(self) -> None:
        if not NAME_PATTERN.fullmatch(self.name):
            raise PluginError(f"{self.name!r} is no plugin name: lower-case letters, digits, dashes")
        base = OPTIONS_BASES.get(self.kind, PluginOptions)
        if not (isinstance(self.options, type) and issubclass(self.options, base)):
            raise PluginError(f"options of {self.name!r} must be a subclass of {base.__name__}")
        if self.options.model_config.get("extra") != "forbid":
            raise PluginError(f"options of {self.name!r} must refuse unknown keys: extra='forbid'")
        untyped = untyped_options(self.options)
        if untyped:
            raise PluginError(
                f"options of {self.name!r} take anything as {untyped[0]!r}: annotate it with its type"
                f"{where_defined(self.options)}"
            )
        if not TARGET_PATTERN.fullmatch(self.target):
            raise PluginError(f"target {self.target!r} is not of the form 'module:attribute'")

    @property
    def owner(self) -> str:
        """Kind, name, package and version, for messages."""
        return f"{self.kind}/{self.name} of {self.provenance}"

    @property
    def qualified_name(self) -> str:
        """`package:name`, which means this plugin whoever else has one of its name."""
        return f"{self.provenance.package}:{self.name}"

    @property
    def written_name(self) -> str:
        """What files call it: its name where it is built in, `package:name` of anybody else's."""
        return self.name if self.provenance.package == OWN_PACKAGE else self.qualified_name

    def implementation(self) -> Callable[[PluginOptions], ContractT]:
        """Import the target.

        Raises:
            PluginError: the module or its attribute is not there, or the module cannot be imported.
        """
        module_name, attribute = self.target.split(":")
        try:
            implementation: Callable[[PluginOptions], ContractT] = getattr(
                importlib.import_module(module_name), attribute
            )
        except Exception as error:  # a module may raise anything while it is imported
            raise PluginError(
                f"{self.owner} cannot be loaded from {self.target}: {one_line(error)}{where_raised(error)}"
            ) from error
        lacking = sorted(getattr(implementation, "__abstractmethods__", ()))
        if lacking:
            raise PluginError(
                f"{self.owner} is not finished: {self.target} lacks {', '.join(lacking)}: define what its "
                f"contract asks for{where_defined(implementation)}"
            )
        if not callable(implementation):
            raise PluginError(
                f"{self.owner} cannot be built: {self.target} is a {type(implementation).__name__}, and a "
                f"class or function of its options was expected"
            )
        return implementation

    def build(self, options: Mapping[str, Any] | PluginOptions | None = None) -> ContractT:
        """The plugin itself, with its options checked.

        Raises:
            pydantic.ValidationError: an option is unknown or out of range.
            PluginError: the implementation cannot be imported, or fails.
        """
        if not isinstance(options, PluginOptions):
            options = self.options.model_validate(dict(options or {}))
        implementation = self.implementation()
        with Blame(self.owner, "its making"):
            plugin = implementation(options)
        return watched(plugin, self.owner)


@dataclass(frozen=True)
class ChosenPlugin(Generic[ContractT, OptionsT]):
    """A plugin together with its options, which have been checked; it is not imported before it is built."""

    registration: Registration[ContractT]
    options: OptionsT

    @property
    def name(self) -> str:
        """The plugin's."""
        return self.registration.name

    @property
    def written_name(self) -> str:
        """See `Registration.written_name`."""
        return self.registration.written_name

    def build(self) -> ContractT:
        """The plugin itself.

        Raises:
            PluginError: the implementation cannot be imported.
        """
        return self.registration.build(self.options)


@dataclass
class Registry(Generic[ContractT]):
    """All plugins of one extension point."""

    kind: str
    _by_name: dict[str, list[Registration[ContractT]]] = field(default_factory=dict)
    _warned: set[str] = field(default_factory=set)

    def add(self, registration: Registration[ContractT]) -> None:
        """Take a plugin in. A name that is already taken becomes a conflict, reported when it is used."""
        self._by_name.setdefault(registration.name, []).append(registration)

    def get(self, name: str) -> Registration[ContractT]:
        """The plugin of that name, or of that `package:name`.

        A built-in plugin goes before others of its name, with a warning. Where none is built in, a name
        that several packages bring has to be given with its package.

        Raises:
            PluginError: there is none (the message suggests one), or several packages bring it.
        """
        package, colon, bare = name.rpartition(":")
        found = self._by_name.get(bare if colon else name, [])
        if colon:
            named = [registration for registration in found if registration.provenance.package == package]
            if not named:
                known = [registration.qualified_name for registration in found] or self.names()
                raise PluginError(f"no plugin {self.kind}/{name}: {did_you_mean(name, known)}")
            found = named
        if not found:
            raise PluginError(f"no plugin {self.kind}/{name}: {did_you_mean(name, self.names())}")
        if len(found) == 1:
            return found[0]
        choices = " or ".join(registration.qualified_name for registration in found)
        built_in = [registration for registration in found if registration.provenance.package == OWN_PACKAGE]
        if len(built_in) == 1:
            if name not in self._warned:
                self._warned.add(name)
                warnings.warn(
                    f"{self.kind}/{name} is the built-in one; others bring one too: write {choices}",
                    PluginWarning,
                    stacklevel=2,
                )
            return built_in[0]
        packages = " and ".join(str(registration.provenance) for registration in found)
        raise PluginError(f"{self.kind}/{name} is registered by {packages}: write {choices}")

    def names(self) -> list[str]:
        """Every usable name, sorted: of plugins whose name others have too, `package:name`."""
        return sorted(
            name
            for registrations in self._by_name.values()
            for registration in registrations
            for name in [self.name_of(registration)]
        )

    def name_of(self, registration: Registration[ContractT]) -> str:
        """What to call a plugin: its name, with its package where the name alone means another or none."""
        same = self._by_name[registration.name]
        if len(same) == 1:
            return registration.name
        packages = [each.provenance.package for each in same]
        own = registration.provenance.package == OWN_PACKAGE and packages.count(OWN_PACKAGE) == 1
        return registration.name if own else registration.qualified_name

    def conflicts(self) -> dict[str, list[Provenance]]:
        """Names that several packages registered."""
        return {
            name: [registration.provenance for registration in found]
            for name, found in self._by_name.items()
            if len(found) > 1
        }

    def shadowing(self, name: str) -> list[Registration[ContractT]]:
        """Those of a built-in plugin's name that aren't built in."""
        found = self._by_name.get(name, [])
        strangers = [each for each in found if each.provenance.package != OWN_PACKAGE]
        return strangers if len(strangers) < len(found) else []

    def __iter__(self) -> Iterator[Registration[ContractT]]:
        everyone = [each for registrations in self._by_name.values() for each in registrations]
        return iter(sorted(everyone, key=self.name_of))
