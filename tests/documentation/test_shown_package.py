"""The package that the extension points' first page shows whole is one that works."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .snippets import snippets


@pytest.mark.slow
def test_the_package_that_is_shown_keeps_the_contract(repository: Path, tmp_path: Path) -> None:
    page = "docs/extension-points/index.md"
    files = {each.title: each.text for each in snippets(repository) if each.page == page and each.title}
    for title, text in files.items():
        (tmp_path / title).parent.mkdir(exist_ok=True)
        (tmp_path / title).write_text(text)
    entry_point = files["pyproject.toml"].split("[project.entry-points.opendllm]\n")[1]
    installed = tmp_path / "my_sampler-0.1.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: my-sampler\nVersion: 0.1\n")
    (installed / "entry_points.txt").write_text("[opendllm]\n" + entry_point.replace('"', ""))
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_my_sampler.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    shown = subprocess.run(
        [sys.executable, "-m", "opendllm.core", "plugins", "show", "samplers/left-to-right"],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "from my-sampler 0.1" in shown.stdout
