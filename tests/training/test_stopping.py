"""SIGTERM: the step is finished and saved, and the command that is printed goes on from it."""

from __future__ import annotations

import json
import re
import shlex
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

Curve = Callable[[Path], list[float]]


@pytest.fixture(scope="module")
def whole(commands: Any, module_workspace: Path) -> Path:
    count = module_workspace / "count.json"
    done = commands.run("run", "short.yaml", "--only", "train", cwd=module_workspace, count=count)
    assert done.codes == [0], done.said
    return module_workspace / "runs" / "short"


@pytest.fixture(scope="module")
def saves(whole: Path, module_workspace: Path) -> list[int]:
    """The moments at which the uninterrupted run's three saves begin and end."""
    found: list[int] = json.loads((module_workspace / "count.json").read_text())["saves"]
    assert len(found) == 6
    return found


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_run_that_is_asked_to_stop_saves_and_goes_on_by_the_printed_command(
    commands: Any, module_workspace: Path, curve: Curve, whole: Path, saves: list[int], ranks: int
) -> None:
    name = f"stopped-{ranks}"
    arguments = ["run", "short.yaml", "--only=train", "--set", f"output={name}"]
    moment = (saves[1] + saves[2]) // 2  # after step 2's save, before step 4's
    stopped = commands.run(*arguments, cwd=module_workspace, ranks=ranks, signal=(signal.SIGTERM, moment))
    assert stopped.codes == [0] * ranks, stopped.said
    [(step, command)] = re.findall(
        r"stopped after step (\d) of 6, which is saved; resume with: (.*)", stopped.said
    )
    assert step in "345"
    checkpoints = module_workspace / name / "default" / "checkpoints"
    assert f"step-{step}" in {path.name for path in checkpoints.iterdir()}
    program, *words = shlex.split(command)
    assert (program, words) == ("platform", arguments)
    resumed = commands.run(*words, cwd=module_workspace, ranks=ranks)
    assert resumed.codes == [0] * ranks, resumed.said
    if ranks == 1:
        assert curve(module_workspace / name) == curve(whole)
    assert curve(module_workspace / name) == pytest.approx(curve(whole), rel=1e-5)


def test_a_run_that_is_asked_to_stop_before_it_trains_ends_well_too(
    commands: Any, module_workspace: Path, saves: list[int]
) -> None:
    arguments = ["run", "short.yaml", "--set", "output=early"]
    moment = saves[0] // 2  # among the tokens, not yet at a step
    stopped = commands.run(*arguments, cwd=module_workspace, signal=(signal.SIGTERM, moment))
    assert stopped.codes == [0], stopped.said
    assert (
        "stopped; what was finished is kept; resume with: platform run short.yaml --set output=early"
        in stopped.said
    )
    unfinished = [
        path.name for path in (module_workspace / "early").glob("data/.*") if path.suffix != ".lock"
    ]
    assert not unfinished
    assert not (module_workspace / "early" / "default" / "checkpoints").exists()
