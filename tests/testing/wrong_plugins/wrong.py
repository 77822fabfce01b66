"""How a deliberately wrong plugin is written down: with the contract's test that catches it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from opendllm.core.testing import PluginContract, contract_of
from opendllm.registries import PluginOptions
from opendllm.registries.registry import Provenance, Registration


@dataclass(frozen=True)
class Wrong:
    """A plugin with one mistake.

    Attributes:
        plugin: its class.
        caught_by: the contract's test that is there for this mistake.
        says: what its message says, among other things.
        options: its options model.
        watched: whether its calls are looked at as those of an installed plugin are: where that refuses the
            mistake at once, the contract's own test is only seen without.
    """

    plugin: type
    caught_by: str
    says: str
    options: type[PluginOptions] | None = None
    watched: bool = True


def contract_for(
    kind: str, plugin: type, options: type[PluginOptions], watched: bool = True
) -> type[PluginContract]:
    """The contract class of a plugin that nobody has installed."""

    def registration(self: PluginContract) -> Registration[Any]:
        target = f"{plugin.__module__}:{plugin.__name__}"
        return Registration(kind, "wrong", options, target, "does it wrong", Provenance("strangers", "0.1"))

    def build(self: PluginContract) -> Any:
        return plugin(self.plugin_options())

    own = {} if watched else {"build": build}
    return type(
        "TestIt", (contract_of(kind, options),), {"plugin": "wrong", "registration": registration, **own}
    )


def failures(contract: type[PluginContract], folder: Path, only: str | None = None) -> dict[str, str]:
    """What each failing test of a contract says; or one of them."""
    found = {}
    for name in dir(contract) if only is None else [only]:
        if not name.startswith("test_"):
            continue
        test = getattr(contract(), name)
        given = {}
        if "tmp_path" in test.__code__.co_varnames[: test.__code__.co_argcount]:
            given["tmp_path"] = folder / name
            given["tmp_path"].mkdir()
        try:
            test(**given)
        except pytest.skip.Exception:
            continue
        except Exception as error:
            found[name] = str(error)
    return found
