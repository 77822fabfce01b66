"""Small training runs: a real backbone, real DeepSpeed, rows of 32 tokens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from opendllm.core.data.prepared import PreparedData, prepare
from opendllm.core.data.rows import PackedRows
from opendllm.core.manifest.schema import Data, Train
from opendllm.core.training.processes import join_process_group
from opendllm.core.training.trainer import TrainingRun
from opendllm.registries.backbones import Vocabulary
from opendllm.registries.discovery import installed_plugins

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
            objective=plugins.objectives.get(objective).build(),
            schedule=plugins.noise_schedules.get("linear").build(),
            train_rows=PackedRows(prepared.tokens["train"], prepared.packing["train"], LENGTH, 0, 0),
            held_out_rows=PackedRows(prepared.tokens["held-out"], prepared.packing["held-out"], LENGTH, 0, 0),
            folder=tmp_path / name,
            provenance={"made": "by a test"},
            on_step=on_step,
        )

    return make
