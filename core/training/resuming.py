"""Going on from the newest checkpoint that is whole, and was trained on the same data."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opendllm.core.checkpoints.files import CHECKPOINTS_FOLDER, provenance_of, steps, steps_wanted
from opendllm.core.checkpoints.ledger import rejection_reason
from opendllm.core.data.sources import changed_corpora
from opendllm.core.foundation.process_group import from_first
from opendllm.core.foundation.ranks import rank, world_size
from opendllm.core.training.checkpoints import SavedStep
from opendllm.core.training.elastic import converted
from opendllm.core.training.engine import restore_engine
from opendllm.core.training.trained_weights import TrainedWeights
from opendllm.registries.errors import UserError

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine


def newest_whole(variant_folder: Path, provenance: Mapping[str, Any]) -> SavedStep:
    """Find the checkpoint to go on from. Every rank must call this.

    One that is damaged, or that this run didn't write, is renamed and reported, and the one before is taken.

    Args:
        variant_folder: holds the checkpoints.
        provenance: of the run that goes on; its data must be the checkpoint's.

    Raises:
        UserError: there are checkpoints, but none can be used, or the newest was trained on other tokens.
    """
    step = 0
    if rank() == 0:
        remove_left_overs(variant_folder)
        step = _newest_usable(variant_folder)
    [step] = from_first([step])
    folder = variant_folder / CHECKPOINTS_FOLDER / f"step-{step}"
    if step == 0:
        return SavedStep(0, 0, world_size(), folder)
    known = provenance_of(folder)
    check_same_data(folder, provenance)
    if known.get("parameters") != provenance.get("parameters"):
        raise UserError(
            f"checkpoint {folder} holds another model: its parameters' names or shapes differ from those of "
            f"the manifest's; bring that model back, or start afresh with --set output=DIR"
        )
    extended = tuple(known.get("extended", ()))
    return SavedStep(
        step,
        int(known["tokens"]),
        int(known["processes"]),
        folder,
        steps_wanted(folder),
        extended,
        unmeasured="unmeasured" in known,
    )


def check_same_data(checkpoint: Path, provenance: Mapping[str, Any]) -> None:
    """A checkpoint goes with what it was trained on.

    Args:
        checkpoint: its folder.
        provenance: of what there is now: a digest of the tokens as `data`, fingerprints as `corpora`.

    Raises:
        UserError: it was trained on other tokens; the corpora that have changed are named.
    """
    known = provenance_of(checkpoint)
    if known.get("problems") != provenance.get("problems"):
        raise UserError(
            f"checkpoint {checkpoint} was trained on other problems: bring back what they were, or start "
            f"afresh with --set output=DIR"
        )
    if known.get("data") == provenance.get("data"):
        return
    if "corpora" in known:
        changed = changed_corpora(known["corpora"], provenance.get("corpora", {}))
        why = f"{' and '.join(changed)} changed since" if changed else "the tokenizer has changed since"
    else:
        why = (
            "the corpus or the tokenizer has changed since, or an older version prepared them, which trained "
            "on held-out texts too"
        )
    raise UserError(
        f"checkpoint {checkpoint} was trained on other tokens: {why}; bring back what it was, or start "
        f"afresh with --set output=DIR (what is here stays as it was measured)"
    )


def remove_left_overs(variant_folder: Path) -> None:
    """Delete what a killed run left half-written or half-deleted."""
    for left_over in (variant_folder / CHECKPOINTS_FOLDER).glob(".*"):
        shutil.rmtree(left_over, ignore_errors=True)


def restore(engine: DeepSpeedEngine, weights: TrainedWeights, saved: SavedStep, convert: bool) -> None:
    """Bring back the state of a checkpoint that `newest_whole` found. Every rank must call this.

    Args:
        engine: started to read a converted checkpoint, or not.
        weights: of the run.
        saved: what to bring back.
        convert: whether it is to be converted first.
    """
    if convert:
        with converted(saved.folder) as folder:
            restore_engine(engine, folder)
    else:
        restore_engine(engine, saved.folder)
    weights.restore(saved.folder)


def _newest_usable(variant_folder: Path) -> int:
    rejected: dict[int, str] = {}
    found = [step for step, _ in reversed(steps(variant_folder)) if step > 0]
    for step in found:
        reason = rejection_reason(variant_folder, step)
        if reason is None:
            for newer, why in rejected.items():
                _rename_unusable(variant_folder, newer, why, step)
            return step
        rejected[step] = reason
    if rejected:
        listed = "; ".join(f"step-{step}: {why}" for step, why in rejected.items())
        raise UserError(
            f"no checkpoint in {variant_folder / CHECKPOINTS_FOLDER} can be used ({listed}): bring one back, "
            f"or start afresh with --set output=DIR"
        )
    return 0


def _rename_unusable(variant_folder: Path, step: int, why: str, usable_step: int) -> None:
    """Keep a rejected checkpoint under another name, which no run looks for, and say so."""
    folder = variant_folder / CHECKPOINTS_FOLDER / f"step-{step}"
    target, number = folder.with_name(f"unusable-{folder.name}"), 1
    while target.exists():
        number += 1
        target = folder.with_name(f"unusable-{folder.name}-{number}")
    folder.rename(target)
    print(
        f"checkpoint {folder} cannot be used ({why}): set aside as {target.name}; "
        f"going on from step {usable_step}",
        file=sys.stderr,
    )
