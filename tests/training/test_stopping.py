"""How a run ends: asked to, once or twice, or by itself; what is saved is said, and the exit code tells."""

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


@pytest.mark.parametrize(
    ("ranks", "sent"),
    [
        (1, signal.SIGTERM),
        (1, signal.SIGINT),
        (1, signal.SIGHUP),  # a terminal that is closed
        (2, signal.SIGTERM),
        (2, signal.SIGINT),
    ],
)
def test_a_run_that_is_asked_to_stop_saves_and_goes_on_by_the_printed_command(
    commands: Any, module_workspace: Path, curve: Curve, whole: Path, saves: list[int], ranks: int, sent: int
) -> None:
    name = f"stopped-{ranks}-{sent}"
    arguments = ["run", "short.yaml", "--only=train", "--set", f"output={name}"]
    moment = (saves[1] + saves[2]) // 2  # after step 2's save, before step 4's
    stopped = commands.run(*arguments, cwd=module_workspace, ranks=ranks, signal=(sent, moment))
    assert stopped.codes == [128 + sent] * ranks, stopped.said
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
    assert stopped.codes == [143], stopped.said
    assert (
        "stopped; what was finished is kept; resume with: platform run short.yaml --set output=early"
        in stopped.said
    )
    unfinished = [
        path.name for path in (module_workspace / "early").glob("data/.*") if path.suffix != ".lock"
    ]
    assert not unfinished
    assert not (module_workspace / "early" / "default" / "checkpoints").exists()


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_second_interrupt_ends_at_once_and_names_what_is_saved(
    commands: Any, module_workspace: Path, curve: Curve, whole: Path, saves: list[int], ranks: int
) -> None:
    name = f"twice-{ranks}"
    arguments = ["run", "short.yaml", "--only=train", "--set", f"output={name}"]
    moment = saves[2] - 400  # within step 4, which a first interrupt would still have saved
    stopped = commands.run(
        *arguments, cwd=module_workspace, ranks=ranks, signal=(signal.SIGINT, moment, moment + 200)
    )
    assert stopped.codes[0] == 130, stopped.said  # the other one may lose its peer before it is told
    assert all(stopped.codes), stopped.said
    assert "stopping after this step, which will be saved; Ctrl-C again ends at once" in stopped.said
    [(step, folder)] = re.findall(r"stopped at once; step (\d) is saved in (\S+); resume with", stopped.said)
    assert (step, folder) == ("2", f"{name}/default/checkpoints/step-2")
    assert [path.name for path in (module_workspace / folder).parent.glob("step-*")] == ["step-2"]
    resumed = commands.run(*arguments, cwd=module_workspace, ranks=ranks)
    assert resumed.codes == [0] * ranks, resumed.said
    assert curve(module_workspace / name) == pytest.approx(curve(whole), rel=1e-5)


def test_training_alone_is_a_success(commands: Any, module_workspace: Path) -> None:
    done = commands.run("run", "short.yaml", "--set", "output=alone", cwd=module_workspace)
    assert done.codes == [0], done.said
    last = "alone/default/checkpoints/step-6"
    assert f"default: trained to step 6: {last}" in done.said
    assert "report: none, since nothing is to be evaluated" in done.said
    assert (module_workspace / last).is_dir()
    again = commands.run("run", "short.yaml", "--set", "output=alone", cwd=module_workspace)
    assert again.codes == [0], again.said


def test_an_unfinished_run_is_exported_where_that_is_asked_for(
    commands: Any, module_workspace: Path, saves: list[int]
) -> None:
    moment = (saves[1] + saves[2]) // 2
    arguments = ["run", "short.yaml", "--only=train", "--set", "output=unfinished"]
    commands.run(*arguments, cwd=module_workspace, signal=(signal.SIGTERM, moment))
    variant = module_workspace / "unfinished" / "default"
    step = max(int(path.name[5:]) for path in variant.glob("checkpoints/step-*"))
    assert step < 6

    def export(*options: str) -> Any:
        return commands.run("export", "unfinished/default", *options, cwd=module_workspace)

    refused = export("--to", "nowhere")
    assert refused.codes == [2]
    assert refused.said == (
        f"error: unfinished/default is trained to step {step} of 6: finish the run first, or export what is "
        f"there with --unfinished or --step {step}\n"
    )
    assert not (module_workspace / "nowhere").exists()
    other = export("--to", "nowhere", "--step", "1")
    assert other.codes == [2]
    assert f"unfinished/default has no step 1; there are 2, {step}" in other.said
    for number, options in enumerate((["--unfinished"], ["--step", str(step)], ["--step", "2"])):
        done = export("--to", f"exported-{number}", *options)
        assert done.codes == [0], done.said
    tensors = [
        (module_workspace / f"exported-{number}" / "model.safetensors").read_bytes() for number in range(3)
    ]
    assert tensors[0] == tensors[1] != tensors[2]
    resumed = commands.run(*arguments, cwd=module_workspace)
    assert resumed.codes == [0]
    assert export("--to", "finished").codes == [0]
