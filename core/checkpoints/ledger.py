"""A run's own record of the checkpoints that it wrote, outside their folders.

The checksums inside a checkpoint show that it is whole; only this record shows that it is the run's own.
DeepSpeed's loader unpickles, so nothing else may reach it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from opendllm.core.checkpoints.files import CHECKPOINTS_FOLDER, steps
from opendllm.core.foundation.atomic_files import checksums_digest, integrity_error, write_json
from opendllm.registries.errors import UserError

LEDGER_FILE = "checkpoints.json"


@dataclass(frozen=True)
class Entry:
    """What the run wrote down of one checkpoint.

    Attributes:
        digest: the digest of its checksum file.
        held_out_loss: of its weights, nats a token; None where it was not measured.
    """

    digest: str
    held_out_loss: float | None


def entries(variant_folder: Path) -> dict[int, Entry]:
    """By step.

    Raises:
        UserError: the record is damaged.
    """
    path = variant_folder / LEDGER_FILE
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text())
        return {int(step): Entry(entry["seal"], entry["held_out_loss"]) for step, entry in content.items()}
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise UserError(
            f"{path} is damaged: bring it back, or start afresh with --set output=DIR; without it no "
            f"checkpoint of this run can be trusted"
        ) from error


def enter(variant_folder: Path, step: int, entry: Entry) -> None:
    """Write down a checkpoint, before it can be seen; those that are gone are forgotten."""
    kept = {known for known, _ in steps(variant_folder)}
    known = {number: old for number, old in entries(variant_folder).items() if number in kept}
    content = {**known, step: entry}
    # "seal" is what the file has always called it.
    written = {
        str(number): {"seal": content[number].digest, "held_out_loss": content[number].held_out_loss}
        for number in sorted(content)
    }
    write_json(variant_folder / LEDGER_FILE, written)


def enter_measured(variant_folder: Path, step: int, held_out_loss: float) -> None:
    """Write down the held-out loss of a checkpoint that was saved before it was measured."""
    enter(variant_folder, step, replace(entries(variant_folder)[step], held_out_loss=held_out_loss))


def rejection_reason(variant_folder: Path, step: int) -> str | None:
    """Why a checkpoint must not be loaded, in a few words; None where it is whole and the run's own."""
    folder = variant_folder / CHECKPOINTS_FOLDER / f"step-{step}"
    known = entries(variant_folder).get(step)
    if known is None or checksums_digest(folder) != known.digest:
        return (
            integrity_error(folder) or f"{variant_folder / LEDGER_FILE} does not say that this run wrote it"
        )
    return integrity_error(folder)
