"""The version is said in one place, pyproject.toml, and every entry point tells it."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

HERE = Path(sys.executable).parent


@pytest.mark.parametrize(
    "command",
    [[str(HERE / "platform")], [str(HERE / "opendllm")], [sys.executable, "-m", "opendllm.core"]],
    ids=["platform", "opendllm", "module"],
)
def test_every_entry_point_tells_the_version(command: list[str], repository: Path) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"open-dllm {project['version']}\n", "")


def test_the_version_is_written_down_once(repository: Path) -> None:
    version = tomllib.loads((repository / "pyproject.toml").read_text())["project"]["version"]
    written = re.compile(rf"(?<![\d.]){re.escape(version)}(?![\d.])")
    sources = [
        path for root in ("core", "plugins", "registries") for path in (repository / root).rglob("*.py")
    ]
    found = [path for path in (*sources, repository / "setup.py") if written.search(path.read_text())]
    assert found == []
