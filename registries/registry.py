"""Registries: from a plugin's name to its options model and its lazily imported implementation."""

from __future__ import annotations

import importlib
import inspect
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from opendllm.registries.attribute_checks import wrong_attribute, wrong_class_attribute
from opendllm.registries.errors import PluginError
from opendllm.registries.extension_points import contract_class, options_base
from opendllm.registries.options import PluginOptions
from opendllm.registries.plugin_calls import Blame, watched
from opendllm.registries.source_lines import placed, where_attribute, where_defined, where_raised
from opendllm.registries.suggestions import did_you_mean
from opendllm.registries.typed_options import untyped_options

ContractT = TypeVar("ContractT")
OptionsT = TypeVar("OptionsT", bound=PluginOptions)

NAME_PATTERN = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
OWN_PACKAGE = "open-dllm"
"""The package that brings the built-in plugins."""
TARGET_PATTERN = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


class PluginWarning(UserWarning):
    """A name means another plugin than somebody may think."""


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
        if not (isinstance(self.name, str) and NAME_PATTERN.fullmatch(self.name)):
            raise PluginError(f"{self.name!r} is no plugin name: lower-case letters, digits, dashes")
        base = options_base(self.kind)
        if not (isinstance(self.options, type) and issubclass(self.options, base)):
            raise PluginError(f"options of {self.name!r} must be a subclass of {base.__name__}")
        if self.options.model_config.get("extra") != "forbid":
            raise PluginError(
                f"options of {self.name!r} must refuse unknown keys: extra='forbid'"
                f"{where_defined(self.options)}"
            )
        untyped = untyped_options(self.options)
        if untyped:
            raise PluginError(
                f"options of {self.name!r} take anything as {untyped[0]!r}: annotate it with its type, and "
                f"with its items' (list[str], not list){where_attribute(self.options, untyped[0])}"
            )
        issue = wrong_class_attribute(self.options)
        if issue is not None:
            raise PluginError(f"options of {self.name!r}: {issue}")
        if not (isinstance(self.target, str) and TARGET_PATTERN.fullmatch(self.target)):
            where = f"{getattr(self.target, '__module__', '')}:{getattr(self.target, '__qualname__', '')}"
            meant = f": write {where!r}" if TARGET_PATTERN.fullmatch(where) else ""
            raise PluginError(f"target {self.target!r} is not of the form 'module:attribute'{meant}")

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
            implementation: Any = getattr(importlib.import_module(module_name), attribute)
        except Exception as error:  # a module may raise anything while it is imported
            message = f"{self.owner} cannot be loaded from {self.target}: {one_line(error)}"
            raise PluginError(placed(message, where_raised(error), self._hook_line)) from error
        contract = contract_class(self.kind, self.options)
        if isinstance(implementation, type) and not issubclass(implementation, contract):
            raise self._is_no(
                contract, "is a class that derives from another: derive it from", implementation
            )
        lacking = sorted(getattr(implementation, "__abstractmethods__", ()))
        if lacking:
            raise PluginError(
                f"{self.owner} is not finished: {self.target} lacks {', '.join(lacking)}: define what its "
                f"contract asks for{where_defined(implementation)}"
            )
        if not callable(implementation):
            message = (
                f"{self.owner} cannot be built: {self.target} is a {type(implementation).__name__}, and a "
                f"class or function of its options was expected"
            )
            raise PluginError(placed(message, self._hook_line))
        if not _takes_options(implementation):
            is_class = isinstance(implementation, type)
            wanted = "give it `__init__(self, options)`" if is_class else "let it take `options` and no more"
            message = (
                f"{self.owner} cannot be built: {self.target}, which register_{self.kind} names, is called "
                f"with its options, and doesn't take them alone: {wanted}"
            )
            own = vars(implementation).get("__init__") if is_class else None
            raise PluginError(
                placed(message, where_defined(own), where_defined(implementation), self._hook_line)
            )
        built: Callable[[PluginOptions], ContractT] = implementation
        return built

    def build(self, options: Mapping[str, Any] | PluginOptions | None = None) -> ContractT:
        """The plugin itself, with its options checked.

        Raises:
            pydantic.ValidationError: an option is unknown or out of range.
            PluginError: the implementation cannot be imported, fails, or gives what is no plugin of its kind.
        """
        if not isinstance(options, PluginOptions):
            options = self.options.model_validate(dict(options or {}))
        implementation = self.implementation()
        with Blame(self.owner, "its making"):
            plugin = implementation(options)
        contract = contract_class(self.kind, self.options)
        if not isinstance(plugin, contract):
            gave = f"gave {type(plugin).__name__}: let it return an instance of"
            raise self._is_no(contract, gave, implementation)
        with Blame(self.owner, "its making"):
            issue = wrong_attribute(plugin, contract)
        if issue is not None:
            raise PluginError(f"{self.owner}: {issue}")
        return watched(plugin, self.owner)

    def check(self) -> None:
        """Find out what can be found out of the implementation without data.

        A class says by itself what it is. What anything else gives is known once it was called: with the
        defaults of the options, or the first of their `examples` where some have none.

        Raises:
            PluginError: as by `build`.
        """
        if isinstance(self.implementation(), type):
            return
        extra = self.options.model_config.get("json_schema_extra")
        examples = extra.get("examples") if isinstance(extra, dict) else None
        for given in ({}, *(examples if isinstance(examples, list) else ())):
            try:
                options = self.options.model_validate(given)
            except ValidationError:
                continue
            self.build(options)
            return

    @property
    def _hook_line(self) -> str:
        return f" (at {self.registered_at})" if self.registered_at else ""

    def _is_no(self, contract: type, why: str, implementation: object) -> PluginError:
        """The error of what isn't of its extension point's contract."""
        message = (
            f"{self.owner} is no {contract.__name__}: {self.target}, which register_{self.kind} names, {why} "
            f"{contract.__module__}.{contract.__name__}"
        )
        return PluginError(placed(message, where_defined(implementation), self._hook_line))


def _takes_options(implementation: Callable[..., object]) -> bool:
    """Whether it can be called with one argument; True of what has no signature to look at."""
    try:
        signature = inspect.signature(implementation)
    except (TypeError, ValueError):
        return True
    try:
        signature.bind(None)
    except TypeError:
        return False
    return True


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
    left_out: list[Provenance] = field(default_factory=list)
    """Packages that could not be taken in: what isn't here may be theirs."""

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
        chosen = self._chosen(name)
        same = self._by_name[chosen.name]
        if ":" not in name and len(same) > 1 and name not in self._warned:
            self._warned.add(name)
            choices = " or ".join(dict.fromkeys(registration.qualified_name for registration in same))
            warnings.warn(
                f"{self.kind}/{name} is the built-in one; others bring one too: write {choices}",
                PluginWarning,
                stacklevel=2,
            )
        return chosen

    def means(self, name: str, registration: Registration[Any]) -> bool:
        """Whether a name, or `package:name`, is of this very plugin, and not only of one called alike."""
        try:
            return self._chosen(name) is registration
        except PluginError:
            return False

    def _chosen(self, name: str) -> Registration[ContractT]:
        package, colon, bare = name.rpartition(":")
        found = self._by_name.get(bare if colon else name, [])
        if colon:
            named = [registration for registration in found if registration.provenance.package == package]
            if not named:
                known = [registration.qualified_name for registration in found] or self.names()
                raise PluginError(self._missing(name, known))
            found = named
        if not found:
            raise PluginError(self._missing(name, self.names()))
        if len(found) == 1:
            return found[0]
        built_in = [registration for registration in found if registration.provenance.package == OWN_PACKAGE]
        if len(built_in) == 1:
            return built_in[0]
        raise PluginError("; ".join(self._ambiguities(name, found)))

    def _ambiguities(self, name: str, found: Sequence[Registration[ContractT]]) -> list[str]:
        """What is wrong with a name that is registered several times, and what to do."""
        by_package: dict[Provenance, list[Registration[ContractT]]] = {}
        for each in found:
            by_package.setdefault(each.provenance, []).append(each)
        told = []
        for package, same in by_package.items():
            if len(same) > 1:
                lines = " and ".join(dict.fromkeys(each.registered_at for each in same if each.registered_at))
                told.append(
                    f"{package} registers {self.kind}/{name.rpartition(':')[2]} {len(same)} times: leave one "
                    f"of them, or give each its own name in register_{self.kind}{lines and f' (at {lines})'}"
                )
        if len(by_package) > 1:
            packages = " and ".join(map(str, by_package))
            choices = " or ".join(same[0].qualified_name for same in by_package.values() if len(same) == 1)
            told.append(
                f"{self.kind}/{name} is registered by {packages}" + (choices and f": write {choices}")
            )
        return told

    def _missing(self, name: str, known: list[str]) -> str:
        message = f"no plugin {self.kind}/{name}: {did_you_mean(name, known)}"
        if self.left_out:
            packages = " and ".join(map(str, self.left_out))
            message += f" ({packages} could not be taken in: `platform plugins` says why)"
        return message

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

    def conflicts(self) -> dict[str, list[str]]:
        """Names that were registered several times: of each, what is wrong and what to do."""
        return {
            name: self._ambiguities(name, found) for name, found in self._by_name.items() if len(found) > 1
        }

    def shadowing(self, name: str) -> list[Registration[ContractT]]:
        """Those of a built-in plugin's name that aren't built in."""
        found = self._by_name.get(name, [])
        strangers = [each for each in found if each.provenance.package != OWN_PACKAGE]
        return strangers if len(strangers) < len(found) else []

    def __iter__(self) -> Iterator[Registration[ContractT]]:
        everyone = [each for registrations in self._by_name.values() for each in registrations]
        return iter(sorted(everyone, key=self.name_of))
