"""Where the lines of train.jsonl go besides: TensorBoard, Weights & Biases."""

from __future__ import annotations

import uuid
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from opendllm.core.foundation.atomic_files import write_text
from opendllm.registries.errors import UserError

WANDB_ID_FILE = "wandb-id"
"""Beside train.jsonl: under which id a run that goes on is found again."""


class Tracker(Protocol):
    """Takes a run's metrics."""

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Those of one step."""

    def flush(self) -> None:
        """Write what is still in memory: these steps will not be taken again."""

    def close(self) -> None:
        """Write what is still in memory, and end."""


def open_trackers(
    names: Sequence[str], folder: Path, settings: Mapping[str, Any], last_step: int
) -> list[Tracker]:
    """Open the trackers that the manifest names.

    Args:
        names: of `train.trackers`.
        folder: the variant's.
        settings: the manifest, for trackers that show it.
        last_step: the step that training goes on after; what was tracked beyond it is superseded.

    Raises:
        UserError: one is not installed, or doesn't start.
    """
    return [_OPENERS[name](folder, settings, last_step) for name in names]


class _TensorBoard:
    def __init__(self, folder: Path, settings: Mapping[str, Any], last_step: int) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise _missing("tensorboard") from error
        # Step 0, which only has a held-out loss, is measured again where nothing was saved.
        superseded = last_step + 1 if last_step else 0
        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=superseded)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _WeightsAndBiases:
    def __init__(self, folder: Path, settings: Mapping[str, Any], last_step: int) -> None:
        try:
            import wandb
        except ImportError as error:
            raise _missing("wandb") from error
        id_file = folder / WANDB_ID_FILE
        # It takes no step twice, and silently: what began and saved nothing was perhaps another training.
        if last_step == 0 or not id_file.exists():
            write_text(id_file, uuid.uuid4().hex)
        try:
            self._run = wandb.init(
                project=folder.absolute().parent.name,
                name=folder.name,
                id=id_file.read_text(),
                resume="allow",
                dir=str(folder),
                config=dict(settings),
                allow_val_change=True,  # a run that is extended has other settings
                settings=wandb.Settings(silent=True),
            )
        except (wandb.Error, OSError) as error:
            raise UserError(
                f"wandb does not start ({' '.join(str(error).split())}): log in with `wandb login`, or set "
                f"WANDB_MODE=offline"
            ) from error

    def add(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def flush(self) -> None:
        pass  # its own process writes, and outlives this one

    def close(self) -> None:
        self._run.finish()


_OPENERS: Mapping[str, Callable[[Path, Mapping[str, Any], int], Tracker]] = {
    "tensorboard": _TensorBoard,
    "wandb": _WeightsAndBiases,
}


def _missing(name: str) -> UserError:
    return UserError(f"train.trackers: {name} is not installed: pip install 'open-dllm[trackers]'")
