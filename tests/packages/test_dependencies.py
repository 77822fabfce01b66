"""What is imported is declared: a package that only happens to be here is missing somewhere else."""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import itertools
import sys
import tomllib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from opendllm.core.scaffold.new_plugin import kinds, write_plugin
from opendllm.registries.discovery import Plugins

from .conftest import Fresh
from .test_release import ROOTS, pins

OWN = "open-dllm"
DEVELOPERS = {"dev", "docs"}
"""Extras that nobody needs who only uses the platform."""


def imported(folder: Path) -> Mapping[str, Path]:
    """Top-level module -> a file below `folder` that imports it, anywhere in its code."""
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module is not None and not node.level:
                names = [node.module]
            for name in names:
                found.setdefault(name.partition(".")[0], path)
    return {name: path for name, path in found.items() if name not in sys.stdlib_module_names}


@functools.cache
def packages_of_modules() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()


def undeclared(folder: Path, declared: Collection[str], own: Collection[str]) -> dict[str, str]:
    """Module -> the file that imports it, of no declared package."""
    return {
        module: str(path.relative_to(folder))
        for module, path in imported(folder).items()
        if module not in own
        and not declared & {canonicalize_name(each) for each in packages_of_modules().get(module, [module])}
    }


def declared_in(project: Mapping[str, Any], *, without: Collection[str] = ()) -> set[str]:
    """Canonical names of a project's dependencies and of its extras'."""
    extras = project.get("optional-dependencies", {})
    listed = [
        *project["dependencies"],
        *(each for name in extras if name not in without for each in extras[name]),
    ]
    return {canonicalize_name(Requirement(each).name) for each in listed}


def project_of(folder: Path) -> Mapping[str, Any]:
    project: Mapping[str, Any] = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    return project


@pytest.mark.parametrize("root", ROOTS)
def test_what_the_wheel_imports_is_a_dependency(repository: Path, root: str) -> None:
    declared = declared_in(project_of(repository), without=DEVELOPERS)
    assert not undeclared(repository / root, declared, {"opendllm"})


def test_what_a_plugin_package_imports_is_a_dependency(repository: Path, tmp_path: Path) -> None:
    """Its own, or the platform's, which it depends on."""
    packages = [repository / "examples" / "package"]
    for kind in kinds():
        packages.append(write_plugin("a-plugin", kind, tmp_path, Plugins()).rename(tmp_path / kind))
    platform = {canonicalize_name(Requirement(each).name) for each in project_of(repository)["dependencies"]}
    testing = {Requirement(each).name for each in project_of(repository)["optional-dependencies"]["testing"]}
    for package in packages:
        project = project_of(package)
        assert OWN in {Requirement(each).name for each in project["dependencies"]}
        own = {path.name for path in (package / "src").iterdir()} | {"opendllm"}
        allowed = platform | {canonicalize_name(Requirement(each).name) for each in project["dependencies"]}
        assert not undeclared(package / "src", allowed, own), package
        assert not undeclared(package / "tests", allowed | declared_in(project) | testing, own), package


def test_a_package_has_one_bound(repository: Path) -> None:
    """Of two the weaker one is what a user's environment is built with, and the stronger what is tested."""
    project = project_of(repository)
    extras = project["optional-dependencies"].values()
    listed = itertools.chain(project["dependencies"], *extras)
    names = [canonicalize_name(Requirement(each).name) for each in listed]
    assert sorted(names) == sorted(set(names))


def test_a_module_of_no_declared_package_is_seen(tmp_path: Path) -> None:
    """Wherever the import stands."""
    (tmp_path / "module.py").write_text("import json, numpy.linalg\ndef f():\n    from yaml import load\n")
    assert undeclared(tmp_path, {"numpy"}, set()) == {"yaml": "module.py"}


def test_constraints_pin_whatever_the_extras_bring(repository: Path) -> None:
    """One that isn't pinned is another one tomorrow. (CUDA's libraries are pinned by torch itself.)"""
    pinned, missing = pins(repository / "constraints.txt"), set[str]()
    project = project_of(repository)
    listed = [
        each for name, extra in project["optional-dependencies"].items() if name != "gpu" for each in extra
    ]
    waiting = [Requirement(each) for each in (*project["dependencies"], *listed)]
    seen = set[tuple[str, str]]()
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        if name == OWN or name.startswith(("cuda-", "nvidia-", "triton")):
            continue
        if name not in pinned:
            missing.add(name)
            continue
        for extra in {"", *wanted.extras} - {extra for known, extra in seen if known == name}:
            seen.add((name, extra))
            waiting += _brought_by(name, extra, pinned[name])
    assert not missing


def _brought_by(name: str, extra: str, version: Version) -> Iterator[Requirement]:
    """What a distribution needs here, if it is installed in that version."""
    if Version(importlib.metadata.version(name)).public != version.public:
        return
    for requirement in map(Requirement, importlib.metadata.requires(name) or ()):
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            yield requirement


@pytest.mark.slow
def test_every_requirement_of_the_new_packages_is_met(fresh: Fresh) -> None:
    done = fresh.run("python", "-m", "pip", "check", cwd=fresh.packages)
    assert done.returncode == 0, done.stdout
