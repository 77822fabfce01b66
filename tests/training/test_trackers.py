"""Where metrics go besides train.jsonl: the real packages, no network."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from opendllm.core.training.trackers import open_trackers
from opendllm.core.training.trainer import TrainingRun, train
from opendllm.registries.errors import UserError

MakeRun = Callable[..., TrainingRun]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


def scalars(folder: Path, name: str) -> dict[int, float]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    found = events.Scalars(name)
    assert len({event.step for event in found}) == len(found), "a step is there twice"
    return {event.step: event.value for event in found}


@pytest.mark.parametrize("every", [2, None])
def test_tensorboard_gets_what_the_log_gets_and_a_resume_supersedes(
    make_run: MakeRun, every: int | None
) -> None:
    settings = {"trackers": ["tensorboard"], "steps": 4, "checkpoint": {"every": every}}

    def cut(step: int, loss: float, speed: float) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(make_run(on_step=cut, **settings))
    run = make_run(**settings)
    train(run)
    log = [json.loads(line) for line in (run.folder / "train.jsonl").read_text().splitlines()]
    for name in ("loss", "learning_rate", "held_out_loss", "tokens"):
        expected = {line["step"]: line[name] for line in log if name in line}
        assert scalars(run.folder / "tensorboard", name) == pytest.approx(expected, rel=1e-6)


def written_losses(path: Path) -> tuple[str, dict[int, float]]:
    """The run's id and the losses by step in a file of Weights & Biases."""
    from wandb.proto import wandb_internal_pb2
    from wandb.sdk.internal.datastore import DataStore

    store = DataStore()
    store.open_for_scan(str(path))
    losses: dict[int, float] = {}
    identity = ""
    while (content := store.scan_data()) is not None:
        record = wandb_internal_pb2.Record()
        record.ParseFromString(content)
        identity = record.run.run_id or identity
        items = {
            item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item
        }
        if "loss" in items:
            losses[items["_step"]] = items["loss"]
    return identity, losses


@pytest.mark.slow
def test_weights_and_biases_runs_offline(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = make_run(trackers=["wandb"], steps=2)
    train(run)
    log = [json.loads(line) for line in (run.folder / "train.jsonl").read_text().splitlines()]
    expected = {line["step"]: line["loss"] for line in log if "loss" in line}
    [written] = (run.folder / "wandb").glob("offline-run-*/run-*.wandb")
    # Its own service process writes the file, and on a busy machine is late.
    until = time.monotonic() + 60
    while len(written_losses(written)[1]) < len(expected) and time.monotonic() < until:
        time.sleep(0.2)
    identity, losses = written_losses(written)
    assert losses == pytest.approx(expected)
    assert identity == (run.folder / "wandb-id").read_text()


def test_a_run_that_begins_anew_is_a_new_one_of_weights_and_biases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under the id of one that had come further, its steps would be dropped without a word."""
    monkeypatch.setenv("WANDB_MODE", "disabled")
    ids = []
    for last_step in (0, 4, 0):
        [tracker] = open_trackers(["wandb"], tmp_path, {"train": {"steps": last_step}}, last_step)
        tracker.close()
        ids.append((tmp_path / "wandb-id").read_text())
    assert ids[0] == ids[1] != ids[2]


@pytest.mark.parametrize(("tracker", "module"), [("tensorboard", "tensorboard"), ("wandb", "wandb")])
def test_a_tracker_that_is_not_installed_is_an_error_before_the_first_step(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, tracker: str, module: str
) -> None:
    for name in [
        name for name in sys.modules if name == module or name.startswith("torch.utils.tensorboard")
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    run = make_run(trackers=[tracker])
    named = rf"{tracker} is not installed: pip install 'open-dllm\[trackers\]'"
    with pytest.raises(UserError, match=named):
        train(run)
    assert not (run.folder / "train.jsonl").exists()
