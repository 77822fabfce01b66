"""The built documentation, and one working folder in which its snippets run."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from .commands import QUICK, run_command


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
def workplace(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the experiments, and two variants of the quickstart's run at a smaller size still.

    Don't write to it: take `working_folder`.
    """
    folder = tmp_path_factory.mktemp("workplace")
    (folder / "experiments").symlink_to(repository / "experiments")
    variants = ("--variant", "open-dcoder", "--variant", "llada")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run_command(["platform", "run", "experiments/quickstart.yaml", *variants, *QUICK])
    return folder


@pytest.fixture(scope="session")
def working_folder(workplace: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A page -> the folder in which all its blocks run, one after the other, beside the quickstart's run."""

    @functools.cache
    def of(page: str) -> Path:
        folder = tmp_path_factory.mktemp("page")
        (folder / "experiments").symlink_to(workplace / "experiments")
        (folder / "runs").mkdir()
        (folder / "runs" / "quickstart").symlink_to(workplace / "runs" / "quickstart")
        return folder

    return of
