"""A release: what is built, what it was tested with, and what publishes it."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import torch
from dockerfile_parse import DockerfileParser
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from ruamel.yaml import YAML

ROOTS = ("core", "plugins", "registries")
HEADING = re.compile(r"## \[(\d+\.\d+\.\d+)\] - (\d{4}-\d{2}-\d{2}|unreleased)")
GROUPS = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
INSTRUCTIONS = {"FROM", "RUN", "ENV", "ARG", "COPY", "USER", "WORKDIR", "ENTRYPOINT", "CMD", "LABEL"}


def pins(path: Path) -> dict[str, Version]:
    """Canonical name -> version, of lines `name==version`."""
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith(("#", "--"))]
    found = [line.split("==") for line in lines]
    assert all(len(parts) == 2 for parts in found), f"{path.name} pins every line by =="
    return {canonicalize_name(name): Version(version) for name, version in found}


@pytest.mark.slow
def test_sdist_and_wheel_are_what_the_index_takes(distributions: Path) -> None:
    files = sorted(distributions.iterdir())
    assert [path.suffixes[-1] for path in files] == [".whl", ".gz"]
    checked = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", *files],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert checked.returncode == 0, checked.stdout
    wheel = subprocess.run(
        [sys.executable, "-m", "check_wheel_contents", files[0]],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert wheel.returncode == 0, wheel.stdout


@pytest.mark.slow
def test_the_sdist_builds_a_wheel_of_the_whole_tree(distributions: Path, repository: Path) -> None:
    [sdist], [wheel] = distributions.glob("*.tar.gz"), distributions.glob("*.whl")
    tree = {
        path.relative_to(repository).as_posix()
        for root in ROOTS
        for path in (repository / root).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        held = {name.removeprefix("opendllm/") for name in archive.namelist() if name.startswith("opendllm/")}
    assert held == tree
    with tarfile.open(sdist) as packed:
        names = {name.partition("/")[2] for name in packed.getnames()}
    assert {"pyproject.toml", "setup.py", "README.md", "LICENSE"} <= names


def test_the_version_heads_the_changelog(repository: Path) -> None:
    version = tomllib.loads((repository / "pyproject.toml").read_text())["project"]["version"]
    headings = [
        line for line in (repository / "CHANGELOG.md").read_text().splitlines() if line.startswith("## ")
    ]
    matches = [HEADING.fullmatch(line) for line in headings]
    assert all(matches), f"a version is headed `## [1.2.3] - 2026-01-31` or `- unreleased`: {headings}"
    versions = [Version(match[1]) for match in matches if match]
    assert versions[0] == Version(version)
    assert versions == sorted(set(versions), reverse=True)
    assert not [match[0] for match in matches[1:] if match and match[2] == "unreleased"]


def test_the_changelog_says_what_kind_each_change_is(repository: Path) -> None:
    text = (repository / "CHANGELOG.md").read_text()
    assert set(re.findall(r"^### (.*)$", text, flags=re.MULTILINE)) <= GROUPS
    for part in text.split("\n## ")[1:]:
        assert part.split("\n", 1)[1].strip().startswith("### ")


def test_the_lock_satisfies_the_constraints(repository: Path) -> None:
    locked, constrained = pins(repository / "requirements.lock"), pins(repository / "constraints.txt")
    # A local build's label (2.13.0+cpu) says where it came from, not which version it is.
    differing = {
        name: (str(version), str(constrained[name]))
        for name, version in locked.items()
        if name in constrained and Version(version.public) != constrained[name]
    }
    assert not differing, f"(locked, constrained): {differing}: run make lock"


def test_make_lock_writes_what_pip_can_install(repository: Path, tmp_path: Path) -> None:
    """PyPI has no 2.13.0+cpu: the index that has it heads the file."""
    for name in ("Makefile", "pyproject.toml", "setup.py", "constraints.txt"):
        shutil.copy(repository / name, tmp_path)
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    (tmp_path / ".venv/.installed-dev").touch()
    for frozen, index in (
        ("numpy==2.4.6\ntorch==2.13.0+cpu\n", "--extra-index-url https://download.pytorch.org/whl/cpu\n"),
        ("numpy==2.4.6\ntorch==2.13.0\n", ""),
    ):
        python.write_text(f"#!/bin/sh\nprintf '{frozen}'\n")
        python.chmod(0o755)
        done = subprocess.run(["make", "lock"], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        head, _, rest = (tmp_path / "requirements.lock").read_text().partition("\n")
        assert head.startswith("# What the tests ran with, written by `make lock`")
        assert rest == index + frozen
    written = (repository / "requirements.lock").read_text().splitlines()
    assert written[0] == head
    labels = {version.local for version in pins(repository / "requirements.lock").values() if version.local}
    assert written[1 : 1 + len(labels)] == [
        f"--extra-index-url https://download.pytorch.org/whl/{label}" for label in sorted(labels)
    ]


def test_the_lock_holds_all_that_the_tests_need(repository: Path) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    extras = {name: listed for name, listed in project["optional-dependencies"].items() if name != "gpu"}
    locked = pins(repository / "requirements.lock")
    for text in sum(extras.values(), project["dependencies"]):
        wanted = Requirement(text)
        if wanted.name == project["name"]:
            continue
        found = locked.get(canonicalize_name(wanted.name))
        assert found is not None, f"{wanted.name} is not in requirements.lock: run make lock"
        assert wanted.specifier.contains(found), f"{wanted} isn't met by {found}: run make lock"


def test_the_containerfile_copies_what_there_is_and_installs_what_is_tested(
    repository: Path, tmp_path: Path
) -> None:
    parser = DockerfileParser(str(tmp_path / "Dockerfile"))
    parser.content = (repository / "Containerfile").read_text()
    steps = [(step["instruction"], step["value"]) for step in parser.structure]
    steps = [step for step in steps if step[0] != "COMMENT"]
    assert {instruction for instruction, _ in steps} <= INSTRUCTIONS
    [base] = parser.parent_images
    assert re.fullmatch(r"docker\.io/nvidia/cuda:[\d.]+-devel-ubuntu[\d.]+", base)
    # DeepSpeed's kernels are compiled by the image, and run with the libraries that PyTorch's wheel brings.
    toolkit = pins(repository / "constraints.txt")["cuda-toolkit"]
    assert Version(base.partition(":")[2].partition("-")[0]).major == toolkit.major
    for needed in map(Requirement, importlib.metadata.requires("torch") or ()):
        if needed.name == "cuda-toolkit":  # of a build for CUDA
            assert needed.specifier.contains(toolkit), f"torch needs {needed}: pin that in constraints.txt"
    if torch.version.cuda is not None:
        assert Version(torch.version.cuda).major == toolkit.major
    copied = {name for instruction, value in steps if instruction == "COPY" for name in value.split()[:-1]}
    assert not [name for name in copied if not (repository / name).exists()]
    assert {*ROOTS, "pyproject.toml", "setup.py", "README.md", "LICENSE", "constraints.txt"} == copied
    [install] = [value for instruction, value in steps if instruction == "RUN" and "pip install" in value]
    assert "--constraint /opt/source/constraints.txt" in install
    [users] = [value for instruction, value in steps if instruction == "USER"]
    assert users != "root"
    assert ("ENTRYPOINT", '["platform"]') in steps


@pytest.mark.parametrize("page", ["Containerfile", "docs/installing.md"])
def test_a_container_writes_into_the_mounted_folder_as_its_owner(repository: Path, page: str) -> None:
    text = (repository / page).read_text().replace("\n#", "\n")
    shown = re.findall(r"^ *((?:podman|docker) run (?:.*\\\n)*.*)$", text, re.MULTILINE)
    assert shown
    for command in shown:
        assert '-v "$PWD:/work"' in command
        assert '--user "$(id -u):$(id -g)" -e HOME=/tmp' in command
        assert command.startswith("docker") or "--userns=keep-id" in command


def test_a_release_is_tested_and_published_without_a_token(repository: Path) -> None:
    workflow = YAML(typ="safe", pure=True).load(repository / ".github/workflows/release.yml")
    jobs = workflow["jobs"]
    assert set(jobs["publish"]["needs"]) == {"tests", "build"}
    assert jobs["publish"]["permissions"] == {"id-token": "write"}
    assert workflow["permissions"] == {"contents": "read"}
    [publish] = [step for step in jobs["publish"]["steps"] if "pypi-publish" in step["uses"]]
    assert "with" not in publish  # no password
    called = jobs["tests"]["uses"].removeprefix("./")
    assert "workflow_call" in YAML(typ="safe", pure=True).load(repository / called)["on"]


def test_the_checks_of_a_tag_are_true_of_these_files(repository: Path) -> None:
    """What the workflow greps for is what the files look like."""
    workflow = (repository / ".github/workflows/release.yml").read_text()
    assert 'grep -qx "version = \\"$version\\"" pyproject.toml' in workflow
    version = tomllib.loads((repository / "pyproject.toml").read_text())["project"]["version"]
    assert f'version = "{version}"' in (repository / "pyproject.toml").read_text().splitlines()
    assert f"## [{version}] - " in (repository / "CHANGELOG.md").read_text()
