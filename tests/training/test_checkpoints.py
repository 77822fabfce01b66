"""Which checkpoint a run goes on from, and which it keeps."""

from __future__ import annotations

import contextlib
import hashlib
import json
import pickle  # noqa: TID251
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from opendllm.core.checkpoints.files import steps
from opendllm.core.checkpoints.ledger import LEDGER_FILE
from opendllm.core.foundation.atomic_files import CHECKSUMS_FILE
from opendllm.core.manifest.train_schema import Checkpointing
from opendllm.core.training.retention import expired
from opendllm.core.training.trainer import TrainingRun, train
from opendllm.registries.errors import UserError

MakeRun = Callable[..., TrainingRun]


def log_of(run: TrainingRun) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.folder / "train.jsonl").read_text().splitlines()]


def names(run: TrainingRun) -> set[str]:
    return {path.name for path in (run.folder / "checkpoints").iterdir()}


@pytest.fixture
def trained(make_run: MakeRun) -> TrainingRun:
    """Four steps, with checkpoints at 2 and 4."""
    run = make_run(steps=4, checkpoint={"every": 2})
    train(run)
    return run


def again(make_run: MakeRun, **settings: Any) -> TrainingRun:
    return make_run(**{"steps": 4, "checkpoint": {"every": 2}} | settings)


def spoil(kind: str, step: Path) -> None:
    engine = next((step / "deepspeed").iterdir())
    match kind:
        case "cut short":
            engine.write_bytes(engine.read_bytes()[:-1])
        case "one bit":
            content = bytearray(engine.read_bytes())
            content[len(content) // 2] ^= 1
            engine.write_bytes(bytes(content))
        case "a file gone":
            engine.unlink()
        case "a file more":
            (step / "deepspeed" / "more.pt").write_bytes(b"")
        case "no checksums":
            (step / CHECKSUMS_FILE).unlink()


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("cut short", "has changed since it was written"),
        ("one bit", "has changed since it was written"),
        ("a file gone", "is missing"),
        ("a file more", "more.pt was added since it was written"),
        ("no checksums", "checksums.json is missing or unreadable"),
    ],
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(
    make_run: MakeRun, trained: TrainingRun, capsys: pytest.CaptureFixture[str], kind: str, named: str
) -> None:
    before = log_of(trained)
    spoil(kind, trained.folder / "checkpoints" / "step-4")
    run = again(make_run)
    train(run)
    said = capsys.readouterr().err
    assert named in said
    assert "step-4 cannot be used" in said
    assert "going on from step 2" in said
    assert [line["loss"] for line in log_of(run)[1:]] == [line["loss"] for line in before[1:]]
    assert names(run) == {"step-2", "step-4", "unusable-step-4"}


def test_where_no_checkpoint_can_be_used_nothing_is_trained_anew(
    make_run: MakeRun, trained: TrainingRun
) -> None:
    for step in (2, 4):
        spoil("one bit", trained.folder / "checkpoints" / f"step-{step}")
    with pytest.raises(
        UserError, match=r"no checkpoint in .* can be used \(step-4: .*; step-2: .*--set output"
    ):
        train(again(make_run))
    assert names(trained) == {"step-2", "step-4"}


class Unpickled:
    """Says so when it is."""

    path = ""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path(self.path),))


def test_a_whole_checkpoint_that_this_run_did_not_write_is_never_unpickled(
    make_run: MakeRun, trained: TrainingRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = make_run("other", steps=4, checkpoint={"every": 2}, learning_rate=2e-3)
    train(other)
    Unpickled.path = str(tmp_path / "unpickled")
    foreign = other.folder / "checkpoints" / "step-4"
    evil = next((foreign / "deepspeed").iterdir())
    evil.write_bytes(pickle.dumps(Unpickled()))
    with contextlib.suppress(Exception):
        torch.load(evil, weights_only=False)
    assert Path(Unpickled.path).exists(), "the control: loading it would run its code"
    Path(Unpickled.path).unlink()
    sums = json.loads((foreign / CHECKSUMS_FILE).read_text())
    sums[f"deepspeed/{evil.name}"] = hashlib.sha256(evil.read_bytes()).hexdigest()
    (foreign / CHECKSUMS_FILE).write_text(json.dumps(sums))
    ours = trained.folder / "checkpoints" / "step-4"
    shutil.rmtree(ours)
    shutil.copytree(foreign, ours)
    train(again(make_run))
    assert not Path(Unpickled.path).exists()
    assert "does not say that this run wrote it" in capsys.readouterr().err


def test_a_damaged_ledger_is_an_error(make_run: MakeRun, trained: TrainingRun) -> None:
    (trained.folder / LEDGER_FILE).write_text("{")
    with pytest.raises(UserError, match=r"checkpoints\.json is damaged"):
        train(again(make_run, steps=5))


def test_a_resume_with_another_model_is_refused(make_run: MakeRun, trained: TrainingRun) -> None:
    before = names(trained)
    with pytest.raises(UserError, match=r"step-4 holds another model"):
        train(again(make_run, steps=5, backbone="llada", objective="llada"))
    assert names(trained) == before


def test_what_a_killed_run_left_half_written_goes_away(make_run: MakeRun, trained: TrainingRun) -> None:
    for name in (".step-6.partial", ".step-2.removed", ".step-4.universal"):
        (trained.folder / "checkpoints" / name).mkdir()
        (trained.folder / "checkpoints" / name / "file").write_text("half")
    train(again(make_run))
    assert names(trained) == {"step-2", "step-4"}


def test_the_log_goes_on_where_the_checkpoint_is_and_counts_on(
    make_run: MakeRun, trained: TrainingRun
) -> None:
    shutil.rmtree(trained.folder / "checkpoints" / "step-4")
    log = trained.folder / "train.jsonl"
    before = log_of(trained)
    log.write_text(log.read_text() + '{"step": 5, "lo')
    train(again(make_run))
    assert [(line["step"], line.get("tokens")) for line in log_of(trained)] == [
        (line["step"], line.get("tokens")) for line in before
    ]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"keep": 2}, [10, 20, 30]),
        ({"keep": 1, "keep_every": 20}, [10, 30]),
        ({"keep": 1, "keep_best": 2}, [20, 40]),
        ({"keep": 5}, []),
    ],
)
def test_what_is_kept(settings: dict[str, int], expected: list[int]) -> None:
    losses = {10: 1.0, 20: None, 30: 2.0, 40: 3.0, 50: 2.5}
    assert expired([50, 10, 30, 20, 40], losses, Checkpointing(every=10, **settings)) == expected


def test_the_best_on_the_held_out_loss_is_kept(make_run: MakeRun) -> None:
    # A rate that grows past what the model bears: the held-out loss falls, then rises.
    run = make_run(
        steps=8, learning_rate=0.5, warmup_ratio=1.0, checkpoint={"every": 1, "keep": 1, "keep_best": 1}
    )
    train(run)
    measured = {line["step"]: line["held_out_loss"] for line in log_of(run)[1:]}
    assert len(measured) == 8, "each checkpoint's is measured"
    best = min(measured, key=lambda step: measured[step])
    assert best < 8
    assert [step for step, _ in steps(run.folder)] == [best, 8]
    ledger = json.loads((run.folder / LEDGER_FILE).read_text())
    assert ledger[str(best)]["held_out_loss"] == measured[best]


def test_a_step_that_is_the_finished_runs_last_but_damaged_is_trained_again(
    make_run: MakeRun, trained: TrainingRun
) -> None:
    weights = trained.folder / "checkpoints" / "step-4" / "model" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    train(replace(again(make_run), provenance=trained.provenance))
    assert weights.read_bytes() == whole
