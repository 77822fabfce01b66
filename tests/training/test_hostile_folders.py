"""Full and read-only disks, two runs at once, a changed manifest: an error, and nothing is lost."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

Curve = Callable[[Path], list[float]]
TRAIN = ("--only", "train")


@pytest.fixture
def disk(workspace: Path) -> Iterator[Callable[[str], Path]]:
    """Mount a disk of its own below the workspace, with options such as `size=1m` or `ro,remount`."""
    target = workspace / "disk"
    target.mkdir()
    mount = shutil.which("mount")

    def make(options: str) -> Path:
        if mount is None or os.geteuid():
            pytest.skip("a disk of a certain size needs mount and root")
        done = subprocess.run(
            [mount, "-t", "tmpfs", "-o", options, "tmpfs", target],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            pytest.skip(f"this machine mounts no tmpfs: {done.stderr.strip()}")
        return target

    yield make
    while os.path.ismount(target):
        ctypes.CDLL(None).umount2(os.fsencode(target), 2)


def checkpoints(run: Path) -> set[str]:
    return {path.name for path in (run / "default" / "checkpoints").iterdir()}


def test_a_full_disk_ends_the_run_with_its_last_checkpoint_whole(
    commands: Any, workspace: Path, curve: Curve, disk: Callable[[str], Path]
) -> None:
    arguments = ["run", "short.yaml", *TRAIN]
    whole = commands.run(*arguments, "--set", "output=whole", cwd=workspace)
    assert whole.codes == [0], whole.said
    size = sum(path.stat().st_size for path in (workspace / "whole/default/checkpoints/step-6").rglob("*.*"))
    # Room for the data, one checkpoint, and half of the next.
    target = disk(f"size={size * 3 // 2 + 300_000}")
    full = commands.run(*arguments, "--set", "output=disk/run", cwd=workspace)
    assert full.codes == [2], full.said
    [line] = [line for line in full.said.splitlines() if line.startswith("error: ")]
    assert "step 4 could not be saved" in line
    assert "step-2 is whole; make room and run again" in line
    assert checkpoints(target / "run") == {"step-2"}
    mount = shutil.which("mount")
    assert mount is not None
    subprocess.run([mount, "-o", f"remount,size={size * 8}", target], check=True)
    resumed = commands.run(*arguments, "--set", "output=disk/run", cwd=workspace)
    assert resumed.codes == [0], resumed.said
    assert curve(target / "run") == curve(workspace / "whole")


def test_a_read_only_run_folder_is_an_error(
    commands: Any, workspace: Path, disk: Callable[[str], Path]
) -> None:
    disk("size=1m,ro")
    for output in ("disk/run", "disk"):
        done = commands.run("run", "short.yaml", *TRAIN, "--set", f"output={output}", cwd=workspace)
        assert done.codes == [2]
        [line] = done.said.splitlines()
        assert line == (
            f"error: the run folder {output} cannot be written: Read-only file system: choose a folder that "
            f"can be written, and run again"
        )


def test_of_two_runs_at_once_the_second_is_refused_and_a_killed_ones_lock_is_gone(
    commands: Any, workspace: Path, curve: Curve
) -> None:
    arguments = ["run", "short.yaml", *TRAIN, "--set", "train.steps=100000"]
    # The first stops itself in its tracks, where it holds the folder.
    first = commands.start(*arguments, cwd=workspace, signal=(signal.SIGSTOP, 400_000))
    [pid] = first[0]
    while "T" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]:
        pass
    log = first[1].rename(workspace / "first")
    second = commands.run("run", "short.yaml", *TRAIN, cwd=workspace)
    assert second.codes == [2]
    [line] = second.said.splitlines()
    assert line.startswith(f"error: the run folder runs/short is in use by process {pid} on ")
    os.kill(pid, signal.SIGKILL)
    assert commands.wait(([pid], log)).codes == [-signal.SIGKILL]
    third = commands.run("run", "short.yaml", *TRAIN, cwd=workspace)
    assert third.codes == [0], third.said


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("data.sequence_length=64", "data.sequence_length was 32 and is 64"),
        ("model.backbone.options={preset: nano, attention: causal}", "model.backbone.options"),
        ("train.learning_rate=0.5", "train.learning_rate was 0.0003 and is 0.5"),
    ],
)
def test_a_resume_of_something_else_says_what_differs(
    commands: Any, module_workspace: Path, setting: str, named: str
) -> None:
    if not (module_workspace / "runs").exists():
        done = commands.run("run", "short.yaml", *TRAIN, cwd=module_workspace)
        assert done.codes == [0], done.said
    other = ["--set", setting] + (["--set", "train.objective.name=ar"] if "causal" in setting else [])
    other += ["--set", "model.backbone.name=open-dcoder"] if "causal" in setting else []
    done = commands.run("run", "short.yaml", *TRAIN, *other, cwd=module_workspace)
    assert done.codes == [2]
    [line] = done.said.splitlines()
    assert "was trained with another model, data, seed or train section (" in line
    assert named in line


def test_what_changes_no_weight_may_change_from_run_to_run(
    commands: Any, workspace: Path, curve: Curve
) -> None:
    arguments = ["run", "short.yaml", *TRAIN]
    whole = commands.run(*arguments, cwd=workspace)
    assert whole.codes == [0], whole.said
    before = curve(workspace / "runs" / "short")
    shutil.rmtree(workspace / "runs" / "short" / "default" / "checkpoints" / "step-6")
    changes = (
        "train.micro_batch_size=2",
        "train.activation_checkpointing=true",
        "train.checkpoint={every: 1, keep: 3, keep_every: 2, keep_best: 1}",
        "train.trackers=[]",
    )
    overrides = [part for change in changes for part in ("--set", change)]
    resumed = commands.run(*arguments, *overrides, cwd=workspace)
    assert resumed.codes == [0], resumed.said
    assert curve(workspace / "runs" / "short")[:4] == before[:4]
    assert checkpoints(workspace / "runs" / "short") >= {"step-4", "step-5", "step-6"}


def test_a_corpus_that_changed_is_noticed(commands: Any, workspace: Path) -> None:
    arguments = ["run", "short.yaml", *TRAIN]
    done = commands.run(*arguments, cwd=workspace)
    assert done.codes == [0], done.said
    shutil.rmtree(workspace / "runs" / "short" / "default" / "checkpoints" / "step-6")
    (workspace / "texts" / "a0.py").write_text("another = text\n" * 9)
    done = commands.run(*arguments, cwd=workspace)
    assert done.codes == [2]
    assert "step-4 was trained on other tokens: data.corpus (text-files) changed since" in " ".join(
        done.said.split()
    )
    assert "step-4" in checkpoints(workspace / "runs" / "short")
