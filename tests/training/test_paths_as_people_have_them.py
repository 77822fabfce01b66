"""Runs whose folders are elsewhere than a careful person would put them."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow


def test_an_output_with_brackets_and_spaces_behind_a_link(
    commands: Any, workspace: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("another disk")
    (workspace / "my runs").symlink_to(elsewhere)
    (workspace / "mine.yaml").write_text("extends: short.yaml\noutput: ./my runs/a [b] *\n")
    done = commands.run("run", "mine.yaml", "--only", "train", cwd=workspace)
    assert done.codes == [0], done.said
    run = elsewhere / "a [b] *"
    assert (run / "default" / "checkpoints" / "step-6" / "model" / "config.json").is_file()
    again = commands.run("run", "mine.yaml", "--only", "train", cwd=workspace)
    assert again.codes == [0], again.said
    exported = commands.run("export", "my runs/a [b] */default", "--to", "my runs/an export", cwd=workspace)
    assert exported.codes == [0], exported.said
    assert (elsewhere / "an export" / "model.safetensors").is_file()


def test_an_output_that_is_a_link_to_nothing_is_an_error(commands: Any, workspace: Path) -> None:
    (workspace / "out").symlink_to(workspace / "unplugged" / "disk")
    done = commands.run("run", "short.yaml", "--set", "output=out", cwd=workspace)
    assert done.codes == [2]
    [line] = [line for line in done.said.splitlines() if line.startswith("error: ")]
    assert "the run folder out cannot be written" in line


def test_names_that_are_not_utf8(commands: Any, workspace: Path) -> None:
    """The manifest's own name, and the folder that it is run in."""
    folder = workspace / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    (workspace / "short.yaml").rename(folder / os.fsdecode(b"\xe9.yaml"))
    (workspace / "texts").rename(folder / "texts")
    name = os.fsdecode(b"\xe9.yaml")
    valid = platform("validate", name, cwd=folder)
    assert valid.returncode == 0, valid.stderr
    assert "\\udce9.yaml: valid" in valid.stdout
    done = platform("run", name, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert (folder / "runs" / "short" / "default" / "checkpoints" / "step-6").is_dir()


def test_a_checkout_that_cannot_be_written(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Everything that a run writes is in its output."""
    output = tmp_path_factory.mktemp("output")
    source = Path(__file__).parents[2]
    command = [sys.executable, "-m", "opendllm.core", "run", "short.yaml", "--set", f"output={output}/run"]
    script = "".join(
        f"mount --bind {shlex.quote(str(path))} {shlex.quote(str(path))} && "
        f"mount -o remount,ro,bind {shlex.quote(str(path))} || exit 77\n"
        for path in (source, workspace)
    )
    script += f"cd {shlex.quote(str(workspace))}\ntouch x 2> /dev/null && exit 78\n{shlex.join(command)}"
    try:
        done = subprocess.run(
            ["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        pytest.skip("needs util-linux's unshare")
    if done.returncode in (1, 77) and "unshare" in done.stderr + str(done.returncode == 77):
        pytest.skip(f"this machine mounts nothing: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    assert (output / "run" / "default" / "checkpoints" / "step-6").is_dir()


def platform(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "opendllm.core", *arguments],
        cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
