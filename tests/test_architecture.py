"""Who imports whom."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from opendllm.core import toolkit

ROOTS = ("core", "plugins", "registries")
FOR_PLUGINS = {"foundation", "networks", "sandbox", "scoring", "toolkit"}
LINTER = Path(sys.executable).parent / "lint-imports"


def lint(folder: Path, repository: Path) -> subprocess.CompletedProcess[str]:
    """Check the three packages that lie in `folder`/opendllm."""
    return subprocess.run(
        [LINTER, "--no-cache", "--no-logo", "--config", repository / "pyproject.toml"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )


def copied_packages(repository: Path, folder: Path) -> Path:
    for root in ROOTS:
        target = folder / "opendllm" / root
        shutil.copytree(repository / root, target, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def contracts(repository: Path) -> list[dict[str, Any]]:
    settings = tomllib.loads((repository / "pyproject.toml").read_text())
    listed: list[dict[str, Any]] = settings["tool"]["importlinter"]["contracts"]
    return listed


def parts(folder: Path) -> set[str]:
    """The modules and packages in `folder`."""
    modules = {path.stem for path in folder.glob("*.py") if path.stem != "__init__"}
    return modules | {path.parent.name for path in folder.glob("*/__init__.py")}


def test_every_import_contract_is_kept(repository: Path) -> None:
    result = lint(repository / ".typing", repository)
    assert result.returncode == 0, result.stdout
    assert f"{len(contracts(repository))} kept, 0 broken" in result.stdout


@pytest.mark.parametrize(
    ("module", "forbidden", "contract"),
    [
        ("registries/samplers.py", "opendllm.core.toolkit.draws", "the contracts know neither"),
        ("registries/samplers.py", "opendllm.plugins.samplers", "the contracts know neither"),
        ("core/decoding/plan.py", "opendllm.plugins.samplers.p2", "the platform names no plugin"),
        ("plugins/samplers/p2.py", "opendllm.core.decoding.plan", "plugins and what they may import use no"),
        ("core/toolkit/draws.py", "opendllm.core.run.folder", "plugins and what they may import use no"),
        ("core/networks/attention.py", "opendllm.core.data.rows", "plugins and what they may import use no"),
        ("core/foundation/hub.py", "opendllm.core.toolkit.draws", "registries, then foundation, then"),
        ("plugins/samplers/p2.py", "opendllm.core", "plugins and what they may import do not use"),
        ("plugins/samplers/p2.py", "opendllm.plugins.objectives.llada", "plugins do not know each other"),
        ("core/training/engine.py", "opendllm.core.evaluation.answers", "training and evaluation meet"),
        ("core/evaluation/answers.py", "opendllm.core.training.settings", "training and evaluation meet"),
        ("core/reporting/html.py", "torch", "reports are made from files"),
        ("core/reporting/html.py", "opendllm.core.data.packing", "reports are made from files"),
    ],
)
def test_a_forbidden_import_breaks_its_contract(
    repository: Path, tmp_path: Path, module: str, forbidden: str, contract: str
) -> None:
    folder = copied_packages(repository, tmp_path)
    with (folder / "opendllm" / module).open("a") as file:
        file.write(f"\nimport {forbidden}\n")
    result = lint(folder, repository)
    assert result.returncode == 1
    broken = [line for line in result.stdout.splitlines() if line.endswith(" BROKEN")]
    assert any(line.startswith(contract) for line in broken), result.stdout


def test_no_contract_has_an_exception(repository: Path) -> None:
    assert not [contract["name"] for contract in contracts(repository) if "ignore_imports" in contract]


def test_a_new_part_of_core_is_forbidden_to_plugins_at_once(repository: Path) -> None:
    [contract] = [c for c in contracts(repository) if "use no other part of core" in c["name"]]
    expected = {f"opendllm.core.{part}" for part in parts(repository / "core") - FOR_PLUGINS}
    assert set(contract["forbidden_modules"]) == expected


def test_the_index_for_plugin_authors_names_every_module(repository: Path) -> None:
    index = toolkit.__doc__ or ""
    modules = {part for folder in FOR_PLUGINS - {"sandbox"} for part in parts(repository / "core" / folder)}
    assert sorted(module for module in modules if not re.search(rf"\b{module}\b", index)) == []


def test_a_new_plugin_folder_is_independent_at_once(repository: Path) -> None:
    [contract] = [c for c in contracts(repository) if c["name"] == "plugins do not know each other"]
    expected = {f"opendllm.plugins.{part}" for part in parts(repository / "plugins") - {"builtin"}}
    assert set(contract["modules"]) == expected
