"""Deliberately wrong plugins: the contract's test for a mistake catches it, and says what to do."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

from opendllm.core.testing import CONTRACT_CLASSES

from .wrong_plugins import (
    backbones,
    benchmarks,
    corpora,
    noise_schedules,
    objectives,
    rewards,
    samplers,
)
from .wrong_plugins.wrong import Wrong, contract_for, failures

KINDS: dict[str, Any] = {
    "backbones": backbones,
    "benchmarks": benchmarks,
    "corpora": corpora,
    "noise_schedules": noise_schedules,
    "objectives": objectives,
    "rewards": rewards,
    "samplers": samplers,
}
EACH = [
    pytest.param(kind, wrong, id=f"{kind}-{wrong.plugin.__name__}")
    for kind, module in KINDS.items()
    for wrong in module.WRONG
]

ALSO_RIGHT = [
    pytest.param(kind, plugin, id=f"{kind}-{plugin.__name__}")
    for kind, module in KINDS.items()
    for plugin in getattr(module, "ALSO_RIGHT", ())
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_right_plugin_passes(kind: str, tmp_path: Path) -> None:
    """The control: the wrong ones differ from it by their mistake."""
    module = KINDS[kind]
    assert failures(contract_for(kind, module.Right, module.OPTIONS), tmp_path) == {}


@pytest.mark.parametrize(("kind", "plugin"), ALSO_RIGHT)
def test_an_unusual_right_plugin_passes(kind: str, plugin: type, tmp_path: Path) -> None:
    assert failures(contract_for(kind, plugin, KINDS[kind].OPTIONS), tmp_path) == {}


@pytest.mark.parametrize(("kind", "wrong"), EACH)
def test_a_wrong_plugin_is_caught(kind: str, wrong: Wrong, tmp_path: Path) -> None:
    options = wrong.options or KINDS[kind].OPTIONS
    found = failures(contract_for(kind, wrong.plugin, options, wrong.watched), tmp_path, wrong.caught_by)
    assert wrong.caught_by in found
    assert wrong.says in found[wrong.caught_by]
    assert "\n" not in found[wrong.caught_by]


def test_every_kind_has_wrong_plugins() -> None:
    assert set(KINDS) == set(CONTRACT_CLASSES)
    assert all(len(module.WRONG) >= 18 for module in KINDS.values())


def test_every_failing_contract_says_something(repository: Path) -> None:
    """An assertion without a message tells an author nothing."""
    silent = [
        f"{path.name}:{node.lineno}"
        for path in sorted((repository / "core" / "testing").glob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Assert) and node.msg is None and not _narrows(node.test)
    ]
    assert silent == []


def _narrows(test: ast.expr) -> bool:
    """Whether it is there for the type checker: the registry takes nothing else."""
    called = test.func if isinstance(test, ast.Call) else None
    narrowing = isinstance(called, ast.Name) and called.id in ("isinstance", "issubclass")
    return narrowing or isinstance(test, ast.Compare)
