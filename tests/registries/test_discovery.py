"""A broken package is reported and stops nobody else."""

from __future__ import annotations

import importlib.metadata
import inspect
from typing import Any

import pytest

from opendllm.registries import PluginError, PluginOptions, SamplerOptions, hookspecs
from opendllm.registries.discovery import Plugins, discover, installed_plugins
from opendllm.registries.extension_points import EXTENSION_POINTS
from opendllm.registries.hookspecs import ENTRY_POINT_GROUP


class LaxOptions(SamplerOptions, extra="ignore"):
    """Would swallow a misspelt option."""


def raising(error: BaseException) -> Any:
    def fail(*_: Any) -> None:
        raise error

    return fail


def hook_that_fails_half_way(register: Any) -> None:
    register("half", options=SamplerOptions, target="json:loads", summary="")
    raise RuntimeError("the second half is missing")


def hook_with_another_argument(registry: Any) -> None:
    """Hooks are given `register`."""


def syntax_error() -> None:
    compile("def broken(:\n", "stranger.py", "exec")


@pytest.mark.parametrize(
    ("load", "hooks", "message"),
    [
        (raising(ImportError("No module named 'gone'")), {}, "ImportError: No module named 'gone'"),
        (syntax_error, {}, "SyntaxError: invalid syntax"),
        (raising(SystemExit("this package wants to leave")), {}, "SystemExit: this package wants to leave"),
        (raising(ValueError("two\nlines")), {}, "ValueError: two lines"),
        (lambda: object(), {}, "registers nothing: are its hooks marked with @hookimpl"),
        (None, {"register_samplers": raising(KeyError("oops"))}, "KeyError: 'oops'"),
        (None, {"register_samplers": hook_that_fails_half_way}, "RuntimeError: the second half is missing"),
        (None, {"register_samplers": hook_with_another_argument}, "takes (registry): call its"),
        (None, {"register_sampler": lambda register: None}, "did you mean 'register_samplers'"),
        (None, {"on_startup": lambda: None}, "known: register_backbones, register_benchmarks"),
    ],
)
def test_a_package_that_fails_is_reported_in_one_line_and_stops_nobody_else(
    package: Any, package_of: Any, load: Any, hooks: Any, message: str
) -> None:
    plugins = discover([package("one", "first"), package_of("bad", load, **hooks), package("two", "second")])
    [broken] = plugins.broken
    assert str(broken.provenance) == "bad 1.0"
    assert message in broken.error
    assert "\n" not in broken.error
    assert "Traceback" in broken.details
    assert plugins.samplers.names() == ["first", "second"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"names": ("Wrong Name",)}, "'Wrong Name' is no plugin name"),
        ({"names": ("trailing-",)}, "'trailing-' is no plugin name"),
        ({"target": "no_colon"}, "target 'no_colon' is not of the form 'module:attribute'"),
        ({"target": "module:"}, "is not of the form"),
        ({"options": dict}, "must be a subclass of SamplerOptions"),
        ({"options": SamplerOptions()}, "must be a subclass of SamplerOptions"),
        ({"options": PluginOptions}, "must be a subclass of SamplerOptions"),
        ({"options": LaxOptions}, "must refuse unknown keys"),
        ({"names": ("good", "Bad")}, "'Bad' is no plugin name"),
    ],
)
def test_a_wrong_registration_is_reported_and_nothing_of_its_package_is_taken_in(
    package: Any, wrong: dict[str, Any], message: str
) -> None:
    names = wrong.pop("names", ("good",))
    plugins = discover([package("bad", *names, **wrong), package("fine", "other")])
    [broken] = plugins.broken
    assert message in broken.error
    assert plugins.samplers.names() == ["other"]


def test_what_a_broken_package_would_have_brought_is_not_missing_without_a_word(
    package: Any, package_of: Any
) -> None:
    fine = package("two", "second")
    plugins = discover([fine, package_of("bad", raising(ImportError("gone")))])
    with pytest.raises(PluginError) as caught:
        plugins.samplers.get("first")
    assert str(caught.value) == (
        "no plugin samplers/first: known: second (bad 1.0 could not be taken in: `platform plugins` says why)"
    )
    with pytest.raises(PluginError, match=r"^no plugin samplers/first: known: second$"):
        discover([fine]).samplers.get("first")


class OneLetterEach(SamplerOptions):
    without_effect = "steps"  # type: ignore[assignment]


class OfAnyNoise(SamplerOptions):
    destinations = frozenset({"masks"})  # type: ignore[arg-type]


class Shy(SamplerOptions):
    reads_filtered = None  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (OneLetterEach, "without_effect is 'steps', and frozenset[str] was expected"),
        (OfAnyNoise, "destinations is frozenset({'masks'}), and frozenset[Literal['mask', 'uniform', 'mix"),
        (Shy, "reads_filtered is None, and bool was expected"),
    ],
)
def test_what_an_options_model_says_as_a_class_is_looked_at(package: Any, options: Any, message: str) -> None:
    [broken] = discover([package("bad", "good", options=options)]).broken
    assert f"register_samplers: options of 'good': {message}" in broken.error
    line = inspect.getsourcelines(options)[1] + 1
    assert broken.error.endswith(f" (at {__file__}:{line})")


def test_hooks_before_the_one_that_fails_leave_nothing_behind(package_of: Any) -> None:
    def register_corpora(register: Any) -> None:
        register("documents", options=PluginOptions, target="json:loads", summary="")

    bad = package_of("bad", register_corpora=register_corpora, register_samplers=raising(ValueError("no")))
    plugins = discover([bad])
    assert plugins.broken
    assert all(not plugins.of_kind(kind).names() for kind in EXTENSION_POINTS)


def test_a_hook_runs_once_however_many_packages_implement_it(package: Any) -> None:
    plugins = discover([package("one", "first"), package("two", "second"), package("three", "third")])
    assert plugins.samplers.names() == ["first", "second", "third"]
    assert not plugins.samplers.conflicts()


def test_two_entry_points_of_one_package_are_both_taken_in(package: Any) -> None:
    plugins = discover([package("one", "first", entry="a"), package("one", "second", entry="b")])
    assert not plugins.broken
    assert plugins.samplers.names() == ["first", "second"]


def test_a_package_without_metadata_is_still_taken_in(package: Any) -> None:
    entry_point = package("one", "first")
    entry_point.dist = None
    assert str(discover([entry_point]).samplers.get("first").provenance) == "unknown package ?"


def test_an_unknown_extension_point_suggests_the_right_one() -> None:
    with pytest.raises(PluginError, match="did you mean 'samplers'"):
        Plugins().of_kind("samplres")


@pytest.mark.parametrize("kind", EXTENSION_POINTS)
def test_an_extension_point_is_meant_however_its_name_is_spelt(kind: str) -> None:
    one = {"corpora": "corpus"}.get(kind, kind.removesuffix("s"))
    plugins = Plugins()
    for spelt in (kind, one, kind.replace("_", "-"), one.replace("_", "-"), one.title()):
        assert plugins.of_kind(spelt) is plugins.of_kind(kind)


def test_every_extension_point_has_a_documented_hook_and_a_registry() -> None:
    hooks = {
        name.removeprefix("register_"): hook
        for name, hook in inspect.getmembers(hookspecs, inspect.isfunction)
        if name.startswith("register_")
    }
    assert set(hooks) == set(EXTENSION_POINTS)
    for kind, hook in hooks.items():
        assert list(inspect.signature(hook).parameters) == ["register"]
        assert hook.__doc__
        assert Plugins().of_kind(kind).kind == kind


def test_the_built_ins_come_through_the_packages_own_entry_point() -> None:
    [entry_point] = [
        entry_point
        for entry_point in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)
        if entry_point.dist is not None and entry_point.dist.name == "open-dllm"
    ]
    assert entry_point.value == "opendllm.plugins.builtin"
    taken_in = discover([entry_point])
    assert not taken_in.broken
    for kind in EXTENSION_POINTS:
        assert taken_in.of_kind(kind).names()
        assert set(taken_in.of_kind(kind).names()) <= set(installed_plugins().of_kind(kind).names())
