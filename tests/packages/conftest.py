"""One fresh environment with the wheel, a new plugin of every kind and the examples' package."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest

from opendllm.core.scaffold.new_plugin import kinds, write_plugin
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.extension_points import contract_class

BUILT_FROM = ("core", "plugins", "registries", "pyproject.toml", "setup.py", "README.md", "LICENSE")
GENERATED = {"__pycache__", ".ruff_cache", ".mypy_cache", "build", "runs"}


@dataclass(frozen=True)
class Fresh:
    """An environment of its own.

    Attributes:
        scripts: its `bin`.
        packages: the folders of the plugin packages that are installed in it.
    """

    scripts: Path
    packages: Path

    def run(self, *command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
        """A program of the environment, which sees nothing of this one's checkout."""
        program, *arguments = command
        return subprocess.run(
            [self.scripts / program, *arguments],
            cwd=cwd,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )


def new_name(kind: str) -> str:
    """Of the new plugin of an extension point: `my-sampler`."""
    return f"my-{contract_class(kind).__name__.lower()}"


def copied(source: Path, target: Path) -> None:
    """A file or a folder, without what tools left in it."""
    if source.is_dir():
        ignored = shutil.ignore_patterns(*GENERATED, "*.egg-info", "*.db")
        shutil.copytree(source, target, ignore=ignored)
    else:
        shutil.copy(source, target)


@pytest.fixture(scope="session")
def distributions(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an sdist, and of the wheel that was built from it."""
    source = tmp_path_factory.mktemp("source")
    for name in BUILT_FROM:
        copied(repository / name, source / name)
    target = source / "dist"
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", target, source],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "absent from the `packages` configuration" not in done.stdout + done.stderr
    return target


@pytest.fixture(scope="session")
def fresh(repository: Path, distributions: Path, tmp_path_factory: pytest.TempPathFactory) -> Fresh:
    """The wheel and all plugin packages, installed by pip; dependencies are this environment's."""
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder / "environment", with_pip=False, symlinks=True)
    scripts = folder / "environment" / "bin"
    [own] = (folder / "environment" / "lib").glob("python3*/site-packages")
    # Named by path: their own .pth files, which lead to this checkout, aren't read.
    shared = [path for path in sys.path if path.endswith("-packages")]
    (own / "dependencies.pth").write_text("\n".join(shared) + "\n")
    packages = folder / "packages"
    packages.mkdir()
    for kind in kinds():
        write_plugin(new_name(kind), kind, packages, installed_plugins())
    copied(repository / "examples" / "package", packages / "examples")
    [wheel] = distributions.glob("*.whl")
    command = [
        str(scripts / "python"),
        "-m",
        "pip",
        "install",
        "--no-deps",
        "--no-index",
        "--no-build-isolation",
    ]
    done = subprocess.run(
        [*command, "--ignore-installed", "--no-warn-script-location", wheel, *sorted(packages.iterdir())],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return Fresh(scripts, packages)
