"""From a name to a plugin."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pydantic
import pytest

from opendllm.registries import PluginError, SamplerOptions
from opendllm.registries.discovery import discover, installed_plugins
from opendllm.registries.extension_points import EXTENSION_POINTS
from opendllm.registries.registry import PluginWarning, Provenance, Registration
from opendllm.registries.suggestions import did_you_mean


def registration(target: str) -> Registration[Any]:
    return Registration("samplers", "mine", SamplerOptions, target, "", Provenance("stranger", "1.0"))


def test_a_name_with_a_typo_suggests_the_right_one(package: Any) -> None:
    plugins = discover([package("one", "low-confidence", "entropy")])
    with pytest.raises(PluginError, match=r"no plugin samplers/entrpy: did you mean 'entropy'\?"):
        plugins.samplers.get("entrpy")


def test_a_name_like_no_other_lists_them_all(package: Any) -> None:
    plugins = discover([package("one", "low-confidence", "entropy")])
    with pytest.raises(PluginError, match="known: entropy, low-confidence"):
        plugins.samplers.get("zzz")
    assert did_you_mean("zzz", []) == "known: none"


def test_a_name_of_two_packages_is_an_error_that_names_both_and_only_when_used(package: Any) -> None:
    plugins = discover([package("one", "same", "first"), package("two", "same")])
    assert not plugins.broken
    assert plugins.samplers.names() == ["first", "one:same", "two:same"]
    assert [entry.name for entry in plugins.samplers] == ["first", "same", "same"]
    assert plugins.samplers.get("first").provenance.package == "one"
    message = r"samplers/same is registered by one 1\.0 and two 1\.0: write one:same or two:same"
    with pytest.raises(PluginError, match=message):
        plugins.samplers.get("same")
    for package_name in ("one", "two"):
        assert plugins.samplers.get(f"{package_name}:same").provenance.package == package_name
    assert plugins.samplers.get("one:first").name == "first"
    with pytest.raises(PluginError, match="no plugin samplers/three:same: did you mean"):
        plugins.samplers.get("three:same")
    assert list(plugins.samplers.conflicts()) == ["same"]


def test_a_name_that_one_package_registers_twice_is_for_that_package_to_mend(package: Any) -> None:
    """No `package:name` would choose between them."""
    plugins = discover(
        [package("one", "same", "same"), package("one", "same", entry="b"), package("two", "fine")]
    )
    here = Path(__file__).with_name("conftest.py")
    [line] = [n for n, text in enumerate(here.read_text().splitlines(), 1) if "register(name, " in text]
    message = (
        "one 1.0 registers samplers/same 3 times: leave one of them, or give each its own name in "
        f"register_samplers (at {here}:{line})"
    )
    for name in ("same", "one:same"):
        with pytest.raises(PluginError) as caught:
            plugins.samplers.get(name)
        assert str(caught.value) == message
    assert plugins.samplers.conflicts() == {"same": [message]}
    more = discover([package("one", "same", "same"), package("two", "same")]).samplers
    assert more.get("two:same").provenance.package == "two"
    with pytest.raises(
        PluginError, match=r"same 2 times.*; .* registered by one 1\.0 and two 1\.0: write two:same$"
    ):
        more.get("same")


def test_the_built_in_one_goes_before_a_strangers_of_its_name_and_says_so_once(package: Any) -> None:
    plugins = discover([package("stranger", "p2"), package("open-dllm", "p2")])
    assert plugins.samplers.names() == ["p2", "stranger:p2"]
    with pytest.warns(PluginWarning, match="samplers/p2 is the built-in one.*stranger:p2 or open-dllm:p2"):
        assert plugins.samplers.get("p2").provenance.package == "open-dllm"
    assert plugins.samplers.get("p2").provenance.package == "open-dllm"  # a second warning would be an error
    assert plugins.samplers.get("stranger:p2").provenance.package == "stranger"


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("module_that_is_not_there:Thing", "ModuleNotFoundError: No module named 'module_that_is_not_there'"),
        ("json:Thing", "AttributeError: module 'json' has no attribute 'Thing'"),
        ("broken_in_syntax:Thing", "SyntaxError"),
        ("broken_at_import:Thing", "ZeroDivisionError: division by zero"),
    ],
)
def test_a_target_that_cannot_be_imported_names_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, message: str
) -> None:
    (tmp_path / "broken_in_syntax.py").write_text("def broken(:\n")
    (tmp_path / "broken_at_import.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(PluginError) as caught:
        registration(target).build()
    assert f"samplers/mine of stranger 1.0 cannot be loaded from {target}: {message}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_target_is_imported_when_it_is_first_built_and_not_before(
    package: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a_lazy_target.py").write_text(
        "from opendllm.registries.samplers import Sampler\n"
        "class Lazy(Sampler):\n"
        "    def __init__(self, options): self.strength = options.strength\n"
        "    def select(self, step): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    found = discover([package("one", "lazy", target="a_lazy_target:Lazy")]).samplers.get("lazy")
    assert "a_lazy_target" not in sys.modules
    built: Any = found.build({"strength": 0.25})
    assert built.strength == 0.25
    assert "a_lazy_target" in sys.modules
    del sys.modules["a_lazy_target"]


def test_options_are_checked_before_the_implementation_is_imported() -> None:
    with pytest.raises(pydantic.ValidationError, match="wrong_option"):
        registration("module_that_is_not_there:Thing").build({"wrong_option": 1})


@pytest.mark.parametrize("kind", EXTENSION_POINTS)
def test_every_installed_plugin_says_what_it_is_and_describes_its_options(kind: str) -> None:
    for entry in installed_plugins().of_kind(kind):
        assert entry.summary
        assert "\n" not in entry.summary
        for name, field in entry.options.model_fields.items():
            assert field.description, f"{kind}/{entry.name}: option {name} has no description"
