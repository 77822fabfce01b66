"""The built documentation, and one working folder in which its snippets run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

QUICK = (
    "--limit",
    "2",
    "--set",
    "train.steps=2",
    "--set",
    "train.held_out.rows=2",
    "--set",
    "train.checkpoint.every=2",
)


@pytest.fixture(scope="session")
def site(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages as HTML."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=repository, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="session")
def workplace(
    repository: Path,
    platform: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A folder with the experiments, and the quickstart's run at a smaller size still."""
    folder = tmp_path_factory.mktemp("workplace")
    (folder / "experiments").symlink_to(repository / "experiments")
    run = ("run", "experiments/quickstart.yaml", "--variant", "open-dcoder", *QUICK)
    done = platform(*run, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder
