"""Saving a step, and going on from the newest one that is whole."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opendllm.core.checkpoints.files import (
    CHECKPOINTS_FOLDER,
    MODEL_FOLDER,
    PROVENANCE_FILE,
    damage,
    steps,
    whole_folder,
    write_json,
)
from opendllm.core.training.engine import full_weights, restore_engine, save_engine
from opendllm.core.training.processes import rank, wait_for_all
from opendllm.registries.backbones import DiffusionLM
from opendllm.registries.errors import UserError

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine
    from torch import Tensor
    from transformers import PreTrainedTokenizerFast


def save_step(
    engine: DeepSpeedEngine,
    lm: DiffusionLM,
    tokenizer: PreTrainedTokenizerFast,
    variant_folder: Path,
    step: int,
    provenance: Mapping[str, Any],
    keep: int,
) -> None:
    """Write a step's folder, then delete all but the newest `keep`. Every rank must call this."""
    weights = full_weights(engine)
    target = variant_folder / CHECKPOINTS_FOLDER / f"step-{step}"
    aside = target.with_name(f".{target.name}.engine")
    save_engine(engine, aside)
    wait_for_all()
    if rank() == 0:
        with whole_folder(target) as folder:
            for part in aside.iterdir():
                part.rename(folder / part.name)
            _write_model(folder, lm, weights, tokenizer, {**provenance, "step": step})
        aside.rmdir()
        for _, old in steps(variant_folder)[:-keep]:
            shutil.rmtree(old)
    wait_for_all()


def save_untrained(
    lm: DiffusionLM, tokenizer: PreTrainedTokenizerFast, variant_folder: Path, provenance: Mapping[str, Any]
) -> None:
    """Write a model as it was built, as step 0."""
    target = variant_folder / CHECKPOINTS_FOLDER / "step-0"
    if not target.exists():
        with whole_folder(target) as folder:
            _write_model(folder, lm, lm.module.state_dict(), tokenizer, {**provenance, "step": 0})


def resume_step(engine: DeepSpeedEngine, variant_folder: Path, provenance: Mapping[str, Any]) -> int:
    """Bring back the newest checkpoint.

    Args:
        engine: freshly started.
        variant_folder: holds the checkpoints.
        provenance: of the run that goes on; its data must be the checkpoint's.

    Returns:
        Its step; 0 where there is none.

    Raises:
        UserError: it is damaged, or was trained on other tokens.
    """
    found = steps(variant_folder)
    if not found:
        return 0
    step, folder = found[-1]
    problem = damage(folder)
    if problem is not None:
        raise UserError(f"checkpoint {folder} is damaged ({problem}): delete it to go on from the one before")
    trained_on = json.loads((folder / PROVENANCE_FILE).read_text()).get("data")
    if trained_on != provenance.get("data"):
        raise UserError(
            f"checkpoint {folder} was trained on other tokens: the corpus or the tokenizer has changed "
            f"since; bring it back, or start afresh with --set output=DIR"
        )
    restore_engine(engine, folder)
    return step


def _write_model(
    folder: Path,
    lm: DiffusionLM,
    weights: Mapping[str, Tensor],
    tokenizer: PreTrainedTokenizerFast,
    provenance: Mapping[str, Any],
) -> None:
    model = folder / MODEL_FOLDER
    model.mkdir()
    lm.save(model, weights)
    tokenizer.save_pretrained(model)
    write_json(folder / PROVENANCE_FILE, provenance)
