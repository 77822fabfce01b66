"""Finds plugin packages by their entry points and keeps a broken one from stopping the others."""

from __future__ import annotations

import functools
import importlib.metadata
import inspect
import sys
import traceback
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

import pluggy

from opendllm.registries import hookspecs
from opendllm.registries.backbones import Backbone
from opendllm.registries.benchmarks import Benchmark
from opendllm.registries.corpora import Corpus
from opendllm.registries.errors import PluginError
from opendllm.registries.extension_points import EXTENSION_POINTS, spelt_alike
from opendllm.registries.hookspecs import ENTRY_POINT_GROUP
from opendllm.registries.noise_schedules import NoiseSchedule
from opendllm.registries.objectives import Objective
from opendllm.registries.options import PluginOptions
from opendllm.registries.registry import OWN_PACKAGE, Provenance, Registration, Registry, one_line
from opendllm.registries.rewards import Reward
from opendllm.registries.samplers import Sampler
from opendllm.registries.source_lines import placed, where_defined, where_raised
from opendllm.registries.suggestions import did_you_mean
from opendllm.registries.version import check_interface


class EntryPoint(Protocol):
    """The part of importlib.metadata.EntryPoint that discovery reads."""

    @property
    def name(self) -> str:
        """The entry point's name."""

    @property
    def dist(self) -> importlib.metadata.Distribution | None:
        """The package that declares it."""

    def load(self) -> Any:
        """Import what it points at."""


@dataclass(frozen=True)
class BrokenPlugin:
    """A plugin package that could not be taken in, and why."""

    provenance: Provenance
    entry_point: str
    error: str
    details: str


@dataclass
class Plugins:
    """Everything that is installed, by extension point."""

    noise_schedules: Registry[NoiseSchedule] = field(default_factory=lambda: Registry("noise_schedules"))
    objectives: Registry[Objective] = field(default_factory=lambda: Registry("objectives"))
    samplers: Registry[Sampler] = field(default_factory=lambda: Registry("samplers"))
    backbones: Registry[Backbone] = field(default_factory=lambda: Registry("backbones"))
    corpora: Registry[Corpus] = field(default_factory=lambda: Registry("corpora"))
    benchmarks: Registry[Benchmark] = field(default_factory=lambda: Registry("benchmarks"))
    rewards: Registry[Reward] = field(default_factory=lambda: Registry("rewards"))
    broken: list[BrokenPlugin] = field(default_factory=list)
    unstated: list[Provenance] = field(default_factory=list)
    """Packages of others that don't say which interface they need."""

    def of_kind(self, kind: str) -> Registry[Any]:
        """The registry of one extension point.

        Args:
            kind: its name; as people write it too, `sampler` or `noise-schedules`.

        Raises:
            PluginError: there is no such extension point.
        """
        meant = spelt_alike(kind)
        if meant is None:
            raise PluginError(f"no extension point {kind!r}: {did_you_mean(kind, list(EXTENSION_POINTS))}")
        registry: Registry[Any] = getattr(self, meant)
        return registry


def discover(entry_points: Iterable[EntryPoint]) -> Plugins:
    """Take in every plugin package; those that fail are listed in `Plugins.broken`."""
    plugins = Plugins()
    manager = pluggy.PluginManager(ENTRY_POINT_GROUP)
    manager.add_hookspecs(hookspecs)
    for entry_point in entry_points:
        provenance = _provenance(entry_point)
        try:
            module = entry_point.load()
            stated = check_interface(module)
            name = f"{provenance.package}:{entry_point.name}"
            for registration in _registrations(manager, module, name, provenance):
                plugins.of_kind(registration.kind).add(registration)
            if not stated and provenance.package != OWN_PACKAGE and provenance not in plugins.unstated:
                plugins.unstated.append(provenance)
        except (Exception, SystemExit) as error:  # whatever a stranger raises must stop nobody else
            told = placed(one_line(error), where_raised(error))
            plugins.broken.append(BrokenPlugin(provenance, entry_point.name, told, traceback.format_exc()))
            for kind in EXTENSION_POINTS:
                if provenance not in plugins.of_kind(kind).left_out:
                    plugins.of_kind(kind).left_out.append(provenance)
    return plugins


@functools.cache
def installed_plugins() -> Plugins:
    """What the environment's packages bring; read once a process."""
    return discover(importlib.metadata.entry_points(group=ENTRY_POINT_GROUP))


def _provenance(entry_point: EntryPoint) -> Provenance:
    if entry_point.dist is None:
        return Provenance("unknown package", "?")
    return Provenance(entry_point.dist.name, entry_point.dist.version)


def _registrations(
    manager: pluggy.PluginManager, module: Any, name: str, provenance: Provenance
) -> list[Registration[Any]]:
    """Everything that one entry point's hooks register; nothing is taken in if one of them fails."""
    _refuse_other_arguments(manager, module)
    manager.register(module, name)
    collected: list[Registration[Any]] = []
    for hook in manager.get_hookcallers(module) or []:
        if not hook.has_spec():
            known = [f"register_{kind}" for kind in EXTENSION_POINTS]
            raise PluginError(
                f"there is no hook {hook.name!r}: {did_you_mean(hook.name, known)}"
                f"{where_defined(getattr(module, hook.name))}"
            )
        kind = hook.name.removeprefix("register_")

        def register(
            name: str, *, options: type[PluginOptions], target: str, summary: str, kind: str = kind
        ) -> None:
            caller = sys._getframe(1)
            place = f"{caller.f_code.co_filename}:{caller.f_lineno}"
            collected.append(Registration(kind, name, options, target, summary, provenance, place))

        try:
            manager.subset_hook_caller(
                hook.name, [other for other in manager.get_plugins() if other is not module]
            )(register=register)
        except (Exception, SystemExit) as error:
            raise PluginError(placed(f"{hook.name}: {one_line(error)}", where_raised(error))) from error
    if not collected:
        raise PluginError(
            f"it registers nothing: are its hooks marked with @hookimpl?{where_defined(module)}"
        )
    return collected


def _refuse_other_arguments(manager: pluggy.PluginManager, module: Any) -> None:
    """Hooks are called by the names of their arguments, and all have the same one.

    Raises:
        PluginError: a hook's argument has another name.
    """
    for hook in (f"register_{kind}" for kind in EXTENSION_POINTS):
        if not hasattr(module, hook) or manager.parse_hookimpl_opts(module, hook) is None:
            continue
        function = getattr(module, hook)
        names = [
            f"*, {each.name}" if each.kind is each.KEYWORD_ONLY else each.name
            for each in inspect.signature(function).parameters.values()
            if each.default is each.empty and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
        ]
        if names not in ([], ["register"]):
            raise PluginError(
                f"{hook} takes ({', '.join(names)}): call its argument `register`, as in "
                f"`def {hook}(register):`{where_defined(function)}"
            )
