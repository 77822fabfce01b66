"""Small training runs: a real backbone, real DeepSpeed, rows of 32 tokens."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pytest
import torch

from opendllm.core.data.prepared import PreparedData, prepare
from opendllm.core.data.rows import PackedRows
from opendllm.core.foundation.process_group import join_process_group
from opendllm.core.manifest.schema import Data
from opendllm.core.manifest.train_schema import Train
from opendllm.core.training.documents import DocumentTraining
from opendllm.core.training.trainer import TrainingRun
from opendllm.registries.backbones import Vocabulary
from opendllm.registries.discovery import installed_plugins

MANIFEST = """
name: short
model: {backbone: {name: llada}}
data:
  corpus: {name: text-files, options: {train: texts/a*.py, held_out: texts/held*.py}}
  tokenizer: {train: {vocab_size: 280}}
  sequence_length: 32
train:
  objective: {name: llada}
  steps: 6
  global_batch_size: 4
  held_out: {rows: 3, draws: 1, every: 3}
  checkpoint: {every: 2, keep: 2}
"""
LENGTH = 32
MakeRun = Callable[..., TrainingRun]


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    folder = tmp_path_factory.mktemp("corpus")
    for number in range(12):
        body = "\n".join(f"    total_{i} = value_{number} * {i}" for i in range(3 + number))
        (folder / f"file{number}.py").write_text(f"def function_{number}(value_{number}):\n{body}\n")
    options = {"train": str(folder / "file*.py"), "held_out": str(folder / "file1*.py")}
    data = Data.model_validate(
        {
            "corpus": {"name": "text-files", "options": options},
            "tokenizer": {"train": {"vocab_size": 290}},
            "sequence_length": LENGTH,
        }
    )
    corpus = installed_plugins().corpora.get("text-files").build(options)
    assert data.tokenizer is not None
    return prepare(data, data.tokenizer, corpus, folder / "prepared")


@pytest.fixture
def make_run(prepared: PreparedData, tmp_path: Path) -> MakeRun:
    """A run in tmp_path/NAME; keyword arguments override the `train` section."""

    def make(
        name: str = "run",
        backbone: str = "open-dcoder",
        objective: str = "open-dcoder",
        on_step: Callable[[int, float, float], None] = lambda *_: None,
        backbone_options: dict[str, Any] | None = None,
        **settings: Any,
    ) -> TrainingRun:
        plugins = installed_plugins()
        content = {
            "objective": {"name": objective},
            "steps": 4,
            "global_batch_size": 8,
            "learning_rate": 1e-3,
            "held_out": {"rows": 2, "draws": 16},
        }
        torch.manual_seed(0)
        tokenizer = prepared.tokenizer
        lm = (
            plugins.backbones.get(backbone)
            .build(backbone_options or {})
            .build(Vocabulary(len(tokenizer), tokenizer.mask_token_id, tokenizer.eos_token_id))
        )
        (tmp_path / name).mkdir(exist_ok=True)
        join_process_group(torch.device("cpu"))
        return TrainingRun(
            settings=Train.model_validate(content | settings),
            seed=0,
            lm=lm,
            tokenizer=tokenizer,
            method=DocumentTraining(
                objective=plugins.objectives.get(objective).build(),
                schedule=plugins.noise_schedules.get("linear").build(),
                train_rows=PackedRows(prepared.tokens["train"], prepared.packing["train"], LENGTH, 0, 0),
                held_out_rows=PackedRows(
                    prepared.tokens["held-out"], prepared.packing["held-out"], LENGTH, 0, 0
                ),
            ),
            folder=tmp_path / name,
            provenance={"made": "by a test"},
            on_step=on_step,
        )

    return make


@dataclass(frozen=True)
class Outcome:
    """How a command ended.

    Attributes:
        codes: of its processes, by rank; negative where a signal killed one.
        said: what they printed, errors among it.
    """

    codes: list[int]
    said: str


class Commands:
    """Runs `platform` commands in processes that are forked from one that has imported everything."""

    def __init__(self, server: subprocess.Popen[str], answers: IO[str]) -> None:
        self._server = server
        self._answers = answers

    def run(
        self,
        *arguments: str,
        cwd: Path,
        ranks: int = 1,
        signal: tuple[int, ...] | None = None,
        count: Path | None = None,
    ) -> Outcome:
        """See fork_server.py."""
        return self.wait(self.start(*arguments, cwd=cwd, ranks=ranks, signal=signal, count=count))

    def start(
        self,
        *arguments: str,
        cwd: Path,
        ranks: int = 1,
        signal: tuple[int, ...] | None = None,
        count: Path | None = None,
    ) -> tuple[list[int], Path]:
        """(process ids, the file that they print into)."""
        log = cwd / "said"
        log.unlink(missing_ok=True)
        started = self._ask(
            cwd=str(cwd),
            arguments=arguments,
            ranks=ranks,
            log=str(log),
            signal=signal,
            count=None if count is None else str(count),
        )
        return started["pids"], log

    def wait(self, started: tuple[list[int], Path]) -> Outcome:
        pids, log = started
        codes = self._ask(wait=pids)["codes"]
        return Outcome(codes, log.read_text())

    def _ask(self, **request: Any) -> dict[str, Any]:
        assert self._server.stdin is not None
        print(json.dumps(request), file=self._server.stdin, flush=True)
        answer: dict[str, Any] = json.loads(self._answers.readline())
        return answer


@pytest.fixture(scope="session")
def commands() -> Iterator[Commands]:
    """Runs `platform` commands at once."""
    read, write = os.pipe()
    server = subprocess.Popen(
        [sys.executable, Path(__file__).with_name("fork_server.py"), str(write)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(write,),
        text=True,
    )
    os.close(write)
    with os.fdopen(read) as answers, server:
        yield Commands(server, answers)


def write_workspace(folder: Path) -> Path:
    (folder / "texts").mkdir()
    for number in range(12):
        (folder / "texts" / f"a{number}.py").write_text(f"def f{number}(x):\n    return x + {number}\n" * 4)
    (folder / "texts" / "held.py").write_text("def g(x):\n    return x * 2\n" * 12)
    (folder / "short.yaml").write_text(MANIFEST)
    return folder


@pytest.fixture(scope="module")
def module_workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `short.yaml` and its corpus, for all tests of a module."""
    return write_workspace(tmp_path_factory.mktemp("workspace"))


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A folder with `short.yaml` and its corpus."""
    return write_workspace(tmp_path)


def _log(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "default" / "train.jsonl").read_text().splitlines()]


@pytest.fixture(scope="session")
def curve() -> Callable[[Path], list[float]]:
    """The losses that a run folder's log holds, each step's and the held-out ones, in order."""
    return lambda run: [line[key] for line in _log(run) for key in ("loss", "held_out_loss") if key in line]
