"""What is asked to stop is saved before anything is measured; what was due is measured when it goes on."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from opendllm.core.checkpoints.files import steps
from opendllm.core.checkpoints.ledger import entries
from opendllm.core.foundation import atomic_files
from opendllm.core.launching.stopping import Stopped
from opendllm.core.training import checkpoints, documents, held_out
from opendllm.core.training.metrics_log import MetricsLog
from opendllm.core.training.trainer import TrainingRun, train

MakeRun = Callable[..., TrainingRun]
SETTINGS: dict[str, Any] = {
    "held_out": {"every": 3, "rows": 2, "draws": 4},
    "checkpoint": {"every": 2, "keep": 9, "keep_best": 1},
    "steps": 6,
}


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """A stopped run hears no more of them."""
    yield
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def lines(run: TrainingRun) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (run.folder / "train.jsonl").read_text().splitlines()]
    wanted = ("step", "loss", "held_out_loss", "tokens", "gradient_norm")
    return [{key: line[key] for key in wanted if key in line} for line in found]


def stop_in(step: int) -> Callable[..., None]:
    """An `on_step` that is asked to stop while the next step is under way."""

    def on_step(taken: int, *_: float, **__: float) -> None:
        if taken == step - 1:
            os.kill(os.getpid(), signal.SIGTERM)

    return on_step


def test_a_stopped_runs_curve_is_that_of_one_that_wasnt(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = SETTINGS | {"deepspeed": {"zero_optimization": {"stage": 3}}}
    whole = make_run("whole", **settings)
    train(whole)
    signs: list[Path] = []
    give_sign = atomic_files.give_sign

    def signed(staging: Path) -> None:
        signs.append(staging)
        give_sign(staging)

    monkeypatch.setattr(checkpoints, "give_sign", signed)
    measured: list[int] = []
    measure = held_out.held_out_loss

    def counted(*given: Any, **named: Any) -> float | None:
        measured.append(max((number for number, _ in steps(stopped.folder)), default=0))
        return measure(*given, **named)

    monkeypatch.setattr(documents, "held_out_loss", counted)
    stopped = make_run("stopped", on_step=stop_in(3), **settings)
    with pytest.raises(Stopped, match="stopped after step 3 of 6, which is saved"):
        train(stopped)
    assert len(signs) == 2 * len(stopped.lm.module.state_dict()), "of steps 2 and 3, each gathered weight"
    assert "held_out_loss" not in lines(stopped)[-1]
    assert entries(stopped.folder)[3].held_out_loss is None
    measured.clear()
    resumed = make_run("stopped", on_step=stop_in(5), **settings)
    with pytest.raises(Stopped):
        train(resumed)
    assert measured[0] == 3
    assert lines(resumed)[3] == lines(whole)[3]
    assert entries(stopped.folder)[3].held_out_loss == lines(whole)[3]["held_out_loss"]
    train(make_run("stopped", **settings))
    assert [
        {key: line[key] for key in wanted if key in line}
        for line, wanted in zip(lines(stopped), lines(whole), strict=True)
    ] == lines(whole)


@pytest.mark.parametrize("left", [3, 2, 0], ids=["all", "its line is lost", "all are lost"])
def test_what_is_measured_late_stands_on_its_own_steps_line(left: int, tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    before = [{"step": step, "loss": float(step)} for step in (1, 2, 3)][:left]
    path.write_text("".join(json.dumps(line) + "\n" for line in before))
    MetricsLog(path, last_step=3, write=True, trackers=()).amend(3, held_out_loss=0.5)
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line for line in found if line["step"] < 3] == before[:2]
    assert found[-1]["step"] == 3
    assert found[-1]["held_out_loss"] == 0.5
