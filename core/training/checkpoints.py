"""Saving a step."""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from opendllm.core.checkpoints.files import (
    CHECKPOINTS_FOLDER,
    MODEL_FOLDER,
    PROVENANCE_FILE,
    steps,
)
from opendllm.core.checkpoints.ledger import Entry, enter, entries
from opendllm.core.checkpoints.tokenizer_files import write_tokenizer
from opendllm.core.foundation.atomic_files import (
    give_sign,
    publish,
    remove_folder,
    staging_folder_of,
    whole_folder,
    write_json,
)
from opendllm.core.foundation.process_group import wait_for_all
from opendllm.core.foundation.ranks import rank, world_size
from opendllm.core.manifest.train_schema import Checkpointing
from opendllm.core.training.engine import full_weights, save_engine
from opendllm.core.training.retention import expired
from opendllm.core.training.trained_weights import TrainedWeights
from opendllm.registries.backbones import DiffusionLM
from opendllm.registries.errors import UserError, first_line

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class SavedStep:
    """Where a run goes on.

    Attributes:
        step: the last one that was taken; 0 where there is no checkpoint.
        tokens: seen up to it.
        processes: how many wrote it.
        folder: the checkpoint's.
        planned: how many steps the run was to have; 0 where that isn't known.
        extended: {from, to} of each time that it was given more.
        unmeasured: whether it was saved without a look at what was due to be measured, since the run was
            asked to stop.
    """

    step: int
    tokens: int
    processes: int
    folder: Path
    planned: int = 0
    extended: tuple[Mapping[str, int], ...] = ()
    unmeasured: bool = False

    def extended_to(self, total: int) -> tuple[Mapping[str, int], ...]:
        """The same, of a run that goes on from here to `total` steps."""
        return (
            *self.extended,
            *([{"from": self.step, "to": total}] if self.planned not in (0, total) else []),
        )

    @property
    def of_other_processes(self) -> bool:
        """Whether another number of processes wrote it."""
        return self.step > 0 and self.processes != world_size()


@dataclass(frozen=True)
class StepToSave:
    """A step that was taken.

    Attributes:
        number: from 1.
        provenance: travels with it; holds the `tokens` seen.
        held_out_loss: of its weights, nats a token; None where it was not measured.
        save_more: writes into the folder what else it takes to go on.
    """

    number: int
    provenance: Mapping[str, Any]
    held_out_loss: float | None
    save_more: Callable[[Path], None] = lambda folder: None


def save_step(
    engine: DeepSpeedEngine,
    weights: TrainedWeights,
    tokenizer: PreTrainedTokenizerFast,
    variant_folder: Path,
    step: StepToSave,
    settings: Checkpointing,
) -> None:
    """Write a step's folder, then delete those that nothing asks to keep. Every rank must call this.

    Args:
        engine: its whole state is saved, all the ranks' shares.
        weights: what the model folder gets.
        tokenizer: beside them.
        variant_folder: gets `checkpoints/step-N`.
        step: step N.
        settings: what is kept.

    Raises:
        UserError: it can't be written; the checkpoints before are untouched.
    """
    target = variant_folder / CHECKPOINTS_FOLDER / f"step-{step.number}"
    staging = staging_folder_of(target)
    try:
        if rank() == 0:
            staging.mkdir(parents=True)
        wait_for_all()
        save_engine(engine, staging)
        step.save_more(staging)
        with weights.evaluated():
            full = full_weights(engine, partial(give_sign, staging))
            if rank() == 0:
                weights.save_model(staging, full)
        if rank() == 0:
            weights.save_average(staging)
            write_tokenizer(tokenizer, staging / MODEL_FOLDER)
            about = {**step.provenance, "step": step.number, "processes": world_size()}
            write_json(staging / PROVENANCE_FILE, about)
        wait_for_all()
        if rank() == 0:
            publish(staging, target, lambda digest: _enter(variant_folder, step, digest))
            _remove_expired(variant_folder, settings, step.provenance)
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = f"{first_line(error)}{_free(variant_folder)}"
        shutil.rmtree(staging, ignore_errors=True)
        whole = steps(variant_folder)
        before = f"{whole[-1][1]} is whole" if whole else "there is no checkpoint before it"
        displaced = isinstance(error, FileNotFoundError | NotADirectoryError | FileExistsError)
        todo = "bring back what was moved, removed or put there" if displaced else "make room"
        raise UserError(
            f"step {step.number} could not be saved in {variant_folder} ({reason}): {before}; "
            f"{todo} and run again"
        ) from error
    wait_for_all()


def _free(folder: Path) -> str:
    """Room for bytes, or that there is none for another file; empty of a folder that is gone."""
    try:
        found = os.statvfs(folder)
    except OSError:
        return ""
    if found.f_files and not found.f_favail:
        return "; no more files fit there (inodes)"
    largest = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    each = (
        "" if largest == resource.RLIM_INFINITY else f" for files of at most {largest >> 10} KiB (ulimit -f)"
    )
    return f"; {found.f_bavail * found.f_frsize >> 20} MiB are free there{each}"


def _enter(variant_folder: Path, step: StepToSave, digest: str) -> None:
    enter(variant_folder, step.number, Entry(digest, step.held_out_loss))


def save_untrained(
    lm: DiffusionLM, tokenizer: PreTrainedTokenizerFast, variant_folder: Path, provenance: Mapping[str, Any]
) -> None:
    """Write a model as it was built, as step 0.

    Raises:
        UserError: it can't be written.
    """
    target = variant_folder / CHECKPOINTS_FOLDER / "step-0"
    if target.exists():
        return
    try:
        with whole_folder(target) as folder:
            (folder / MODEL_FOLDER).mkdir()
            lm.save(folder / MODEL_FOLDER, lm.module.state_dict())
            write_tokenizer(tokenizer, folder / MODEL_FOLDER)
            write_json(folder / PROVENANCE_FILE, {**provenance, "step": 0})
    except (OSError, SafetensorError) as error:
        raise UserError(f"{target} could not be saved ({first_line(error)})") from error


def _remove_expired(variant_folder: Path, settings: Checkpointing, provenance: Mapping[str, Any]) -> None:
    """But for where an extension began: what was measured before it was measured of that one."""
    begun = {extension["from"] for extension in provenance.get("extended", ())}
    there = dict(steps(variant_folder))
    losses = {step: entry.held_out_loss for step, entry in entries(variant_folder).items()}
    for step in expired(list(there), losses, settings):
        if step not in begun:
            remove_folder(there[step])
