"""The files of a checkpoint: how its folder is found, and what lies where. Imports no torch."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from opendllm.core.foundation.json_objects import read_json_object
from opendllm.core.networks.weight_files import stored_tensors
from opendllm.registries.errors import UserError

MODEL_FOLDER = "model"
ENGINE_FOLDER = "deepspeed"
PROVENANCE_FILE = "provenance.json"
VARIANT_FILE = "variant.json"
CHECKPOINTS_FOLDER = "checkpoints"
_STEP_NAME = re.compile(r"step-(\d+)")


def steps(variant_folder: Path) -> list[tuple[int, Path]]:
    """(step, folder) of every checkpoint of a variant, oldest first."""
    found = []
    for folder in (variant_folder / CHECKPOINTS_FOLDER).glob("step-*"):
        match = _STEP_NAME.fullmatch(folder.name)
        if match and folder.is_dir():
            found.append((int(match.group(1)), folder))
    return sorted(found)


def model_folder(path: Path) -> Path:
    """The Hugging Face folder that `path` means.

    Args:
        path: such a folder, a checkpoint's, or a variant's folder of a run (its last checkpoint).

    Raises:
        UserError: there is no model at `path`, or adapters that belong to one.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist: give a run's variant, a checkpoint or a model folder")
    if path.is_file():
        raise UserError(f"{path} is a file: give its folder, {path.parent}")
    _refuse_adapters(path)
    if (path / "config.json").is_file():
        return path
    if (path / MODEL_FOLDER / "config.json").is_file():
        return path / MODEL_FOLDER
    if (path / VARIANT_FILE).is_file() or steps(path):
        found = steps(path) or steps(path.parent / _trained_in(path))
        if found:
            return found[-1][1] / MODEL_FOLDER
        about = read_json_object(path / VARIANT_FILE, optional=True)
        if about.get("endpoint"):
            server = f"{about.get('model')} at {about['endpoint']}"
            raise UserError(f"{path} holds no checkpoint: its answers are those of a server, {server}")
        raise UserError(f"{path} holds no checkpoint yet: run its manifest first")
    variants = sorted(file.parent.name for file in path.glob(f"*/{VARIANT_FILE}"))
    if variants:
        raise UserError(f"{path} is a whole run: name one of its variants, as in {path / variants[0]}")
    of_runs = sorted(file.parent for file in path.glob(f"*/*/{VARIANT_FILE}"))
    if of_runs:
        raise UserError(f"{path} holds whole runs: name a variant of one, as in {of_runs[0]}")
    raise UserError(f"{path} holds no config.json, so no model: is the folder complete?")


def _refuse_adapters(folder: Path) -> None:
    """peft's adapters are no model, and one that lies beside them isn't what was trained: transformers would
    load both.

    Raises:
        UserError: they are in `folder`.
    """
    file = folder / "adapter_config.json"
    if not file.is_file():
        return
    if (folder.parent / MODEL_FOLDER / "config.json").is_file():
        raise UserError(f"{folder} holds adapters alone: give {folder.parent}, whose model has them merged")
    base = read_json_object(file).get("base_model_name_or_path") or "a model that it doesn't name"
    raise UserError(
        f"{folder} holds adapters (LoRA) of {base}, which aren't read apart: merge them with peft "
        f"(merge_and_unload, save_pretrained), and give the folder that it writes"
    )


def chosen_checkpoint(path: Path, step: int | None, unfinished: bool) -> Path:
    """What is to be handed to others: `path` itself, or the checkpoint of a run's variant.

    Args:
        path: see `model_folder`.
        step: which of a variant's checkpoints; None for the last.
        unfinished: whether the last one will do where the run isn't finished.

    Raises:
        UserError: the run isn't finished and that wasn't asked for, or there is no such step.
    """
    found = steps(path)
    if not found and (path / VARIANT_FILE).is_file():
        found = steps(path.parent / _trained_in(path))
    if step is not None:
        if step not in dict(found):
            there = f"there are {', '.join(str(known) for known, _ in found)}" if found else "it has none"
            raise UserError(f"{path} has no step {step}; {there}")
        return dict(found)[step]
    if found and not unfinished:
        last, folder = found[-1]
        wanted = steps_wanted(folder)
        if last < wanted:
            raise UserError(
                f"{path} is trained to step {last} of {wanted}: finish the run first, or export what is "
                f"there with --unfinished or --step {last}"
            )
    return path


def provenance_of(checkpoint: Path) -> dict[str, Any]:
    """What a checkpoint of a run was made with.

    Raises:
        UserError: it doesn't say, or its file is damaged.
    """
    return read_json_object(checkpoint / PROVENANCE_FILE)


def steps_wanted(checkpoint: Path) -> int:
    """Of the run that wrote it; 0 where it doesn't say."""
    try:
        return int(provenance_of(checkpoint)["manifest"]["train"]["steps"])
    except (UserError, ValueError, KeyError, TypeError):
        return 0


def _trained_in(variant_folder: Path) -> str:
    try:
        return str(json.loads((variant_folder / VARIANT_FILE).read_text())["trained_in"])
    except (ValueError, KeyError) as error:
        raise UserError(f"{variant_folder / VARIANT_FILE} is damaged: run the manifest again") from error


def parameter_count(folder: Path) -> int:
    """How many numbers the weights of a model folder hold, read from their files' headers."""
    return sum(tensor.numbers for tensor in stored_tensors(folder).values())
