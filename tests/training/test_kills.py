"""SIGKILL at twenty moments, half of them inside a save: nothing is lost and nothing differs."""

from __future__ import annotations

import json
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

pytestmark = pytest.mark.slow

ARGUMENTS = ["run", "short.yaml", "--only", "train", "--set", "train.ema.decay=0.9"]


def final_files(run: Path) -> dict[str, bytes]:
    step = run / "default" / "checkpoints" / "step-6"
    return {name: (step / name).read_bytes() for name in ("model/model.safetensors", "average.safetensors")}


@pytest.fixture(scope="module")
def uninterrupted(commands: Any, module_workspace: Path) -> dict[str, Any]:
    """The run folder, and its moments: how many there are, and between which each save lies."""
    count = module_workspace / "count.json"
    output = ("--set", "output=whole")
    done = commands.run(*ARGUMENTS, *output, cwd=module_workspace, count=count)
    assert done.codes == [0], done.said
    return {"run": module_workspace / "whole", **json.loads(count.read_text())}


@pytest.mark.parametrize("number", range(20))
def test_a_killed_run_ends_bit_equal_to_one_that_was_not(
    commands: Any,
    module_workspace: Path,
    curve: Callable[[Path], list[float]],
    uninterrupted: dict[str, Any],
    number: int,
) -> None:
    chance = random.Random(number)
    saves = list(zip(uninterrupted["saves"][::2], uninterrupted["saves"][1::2], strict=True))
    assert len(saves) == 3
    if number < uninterrupted["renames"]:
        moment = -1 - number  # the folder has its name, and nothing came after
    else:
        first, last = chance.choice(saves) if number % 2 else (1, uninterrupted["total"])
        moment = chance.randint(first, last)
    run = module_workspace / f"killed-{number}"
    arguments = [*ARGUMENTS, "--set", f"output={run.name}"]
    killed = commands.run(*arguments, cwd=module_workspace, signal=(signal.SIGKILL, moment))
    assert killed.codes == [-signal.SIGKILL], (moment, killed.said)
    resumed = commands.run(*arguments, cwd=module_workspace)
    assert resumed.codes == [0], resumed.said
    assert "cannot be used" not in resumed.said
    assert curve(run) == curve(uninterrupted["run"])
    assert final_files(run) == final_files(uninterrupted["run"])
    assert load_file(run / "default" / "checkpoints" / "step-6" / "average.safetensors")
    assert not list((run / "default" / "checkpoints").glob(".*"))
