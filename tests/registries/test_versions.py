"""Which interface a package needs, which source its plugins are, and what goes by another name now."""

from __future__ import annotations

import sys
import types
import warnings
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field

from opendllm.registries import PluginError, PluginOptions
from opendllm.registries.deprecations import DeprecatedWarning, warn_deprecated
from opendllm.registries.discovery import discover, installed_plugins
from opendllm.registries.extension_points import EXTENSION_POINTS
from opendllm.registries.registry import Provenance, Registration
from opendllm.registries.sources import changed_sources, source_digest
from opendllm.registries.version import INTERFACE_VERSION, fits


def package_that_needs(package: Any, needed: object) -> Any:
    found = package("stranger", "mine")
    load = found.content

    def with_need() -> types.ModuleType:
        module: types.ModuleType = load()
        module.OPENDLLM_INTERFACE = needed  # type: ignore[attr-defined]
        return module

    found.content = with_need
    return found


@pytest.mark.parametrize("needed", [">=1.0,<2", f"=={INTERFACE_VERSION}", "~=1.0"])
def test_a_package_of_this_interface_is_taken_in(package: Any, needed: str) -> None:
    assert discover([package_that_needs(package, needed)]).samplers.names() == ["mine"]


@pytest.mark.parametrize(
    ("needed", "message"),
    [
        (">=2", f"it needs plugin interface >=2, and this open-dllm has {INTERFACE_VERSION}: install"),
        ("two", "OPENDLLM_INTERFACE is 'two': a specifier of versions was expected, as in '>=1.0,<2'"),
    ],
)
def test_a_package_of_another_interface_is_told_so(package: Any, needed: str, message: str) -> None:
    plugins = discover([package_that_needs(package, needed), package("other", "second")])
    [broken] = plugins.broken
    assert broken.error.startswith(message)
    assert plugins.samplers.names() == ["second"]


def test_a_package_that_does_not_say_which_interface_it_needs_is_known(package: Any, package_of: Any) -> None:
    silent, stated = package("silent", "one"), package_that_needs(package, ">=1.0")
    plugins = discover([silent, package("silent", "two", entry="other"), stated, package("open-dllm", "own")])
    assert list(map(str, plugins.unstated)) == ["silent 1.0"]
    assert plugins.samplers.names() == ["mine", "one", "own", "two"]


def test_pre_releases_count_and_odd_versions_fit_nothing() -> None:
    assert fits("0.3.0a1", ">=0.2", "it")
    assert not fits("?", ">=0.2", "it")
    with pytest.raises(PluginError, match="a specifier of versions was expected"):
        fits("1", "latest", "it")


class Folder:
    """A package of two modules on Python's path."""

    def __init__(self, folder: Path, name: str) -> None:
        self.package = folder / name
        self.package.mkdir()
        (self.package / "__init__.py").write_text("")
        (self.package / "sampler.py").write_text("raise ImportError('nobody imports it')\n")
        (self.package / "helper.py").write_text("A = 1\n")
        self.name = name

    def registration(self, package: str = "stranger") -> Registration[Any]:
        target = f"{self.name}.sampler:Mine"
        return Registration("corpora", "mine", PluginOptions, target, "mine", Provenance(package, "0.1"))

    def digest(self, package: str = "stranger") -> str | None:
        from opendllm.registries import sources

        sources._digest_of_package.cache_clear()  # a process reads the sources once
        sources._digest_of_built_in.cache_clear()
        return source_digest(self.registration(package))


def test_a_strangers_source_is_his_whole_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    folder = Folder(tmp_path, "a_sampler_of_two_modules")
    found = [folder.digest()]
    assert found == [folder.digest()]
    for name, content in (("helper.py", "A = 2\n"), ("prompts.txt", "Say it."), ("prompts.txt", "Say it!")):
        (folder.package / name).write_text(content)
        assert folder.digest() not in (*found, None)
        found.append(folder.digest())
    for left in ("__pycache__/helper.pyc", ".ruff_cache/x"):
        (folder.package / left).parent.mkdir()
        (folder.package / left).write_text("left by a tool")
    assert folder.digest() == found[-1]
    assert "a_sampler_of_two_modules.sampler" not in sys.modules


def test_a_built_ins_source_is_its_module_and_those_beside_it_that_it_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    folder = Folder(tmp_path, "a_built_in_of_modules")
    name, write = folder.name, lambda file, text: (folder.package / f"{file}.py").write_text(text)
    found = [folder.digest("open-dllm")]
    write("helper", "A = 2\n")
    assert folder.digest("open-dllm") == found[0], "nothing names it"
    for statement in (
        f"from {name}.helper import A",
        f"from {name} import helper",
        f"import {name}.helper",
        "from .helper import A",
        "from . import helper",
        f"STARTED = '{name}.helper'",
    ):
        write("sampler", statement + "\n")
        write("helper", f"from {name}.deeper import B\n")
        for text in ("B = 1\n", "B = 2\n"):
            write("deeper", text)
            assert folder.digest("open-dllm") not in (*found, None), statement
            found.append(folder.digest("open-dllm"))


def test_every_built_in_has_a_source_of_its_own() -> None:
    for kind in EXTENSION_POINTS:
        registrations = list(installed_plugins().of_kind(kind))
        digests = {source_digest(each) for each in registrations}
        assert None not in digests
        assert len(digests) == len(registrations)


def test_schedules_that_are_mapped_are_known_by_what_maps_them() -> None:
    from opendllm.registries.sources import _named_modules

    linear = installed_plugins().noise_schedules.get("linear").target.partition(":")[0]
    assert {name.rpartition(".")[2] for name in _named_modules(linear)} == {"linear", "mapped_schedule"}


def test_a_plugin_without_a_file_has_no_digest() -> None:
    lost: Registration[Any] = Registration(
        "corpora", "x", PluginOptions, "gone_for_good:X", "", Provenance("stranger", "1")
    )
    assert source_digest(lost) is None


def test_what_changed_is_named_with_both_digests() -> None:
    now = {"samplers/p2": "aa", "backbones/dream": "bb", "samplers/new": "cc"}
    assert changed_sources({"samplers/p2": "a0", "backbones/dream": "bb"}, now) == [
        "samplers/p2 (source a0 then, aa now)"
    ]
    assert changed_sources(None, now) == []


class Renamed(PluginOptions):
    strength: float = 1.0
    power: float = Field(1.0, deprecated="write `strength`")


def test_a_deprecated_option_warns_once_with_what_to_do() -> None:
    warn_deprecated.cache_clear()
    with pytest.warns(DeprecatedWarning, match="option 'power' of Renamed is deprecated: write `strength`"):
        Renamed.model_validate({"power": 2.0})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Renamed.model_validate({"power": 3.0})
        Renamed.model_validate({"strength": 3.0})
