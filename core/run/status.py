"""What a run's folder says of how far the run is, for whoever looks from elsewhere. Imports no torch."""

from __future__ import annotations

import json
import math
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from opendllm.core.checkpoints.files import VARIANT_FILE, steps, steps_wanted
from opendllm.core.foundation.visible_text import visible_line
from opendllm.core.progress.status_file import PROGRESS_FILE
from opendllm.core.run.folder import RESOLVED_FILE
from opendllm.core.run.lock import is_locked
from opendllm.registries.errors import UserError

RECENT_SECONDS = 120
"""A run of another machine that was heard of so lately is taken to go on: locks may not reach that far, and
its heartbeat comes every few seconds, whatever it does."""

State = Literal["running", "stopped", "finished"]


@dataclass(frozen=True)
class VariantStatus:
    """How far one variant is.

    Attributes:
        name: its own.
        step: of its newest checkpoint; None where there is none.
        wanted: steps in all; None where nobody says.
        results: benchmarks that are scored.
    """

    name: str
    step: int | None
    wanted: int | None
    results: tuple[str, ...]


@dataclass(frozen=True)
class RunStatus:
    """How far a run is.

    Attributes:
        state: whether a process works at it; "stopped" where one did and ended, however that was.
        progress: what it last said; empty where it never said anything.
        age: seconds since then.
        variants: those that have a folder.
    """

    state: State
    progress: dict[str, Any]
    age: float | None
    variants: tuple[VariantStatus, ...]


def run_status(folder: Path) -> RunStatus:
    """Read what is there; nothing is written or locked.

    Raises:
        UserError: `folder` is no run.
    """
    if not (folder / RESOLVED_FILE).is_file():
        what = "does not exist" if not folder.exists() else f"holds no {RESOLVED_FILE}, so it is no run"
        raise UserError(f"{folder} {what}: give a run's folder, as in runs/quickstart")
    progress = _progress(folder / PROGRESS_FILE)
    said = progress.get("updated")
    known = isinstance(said, int | float) and math.isfinite(said)
    age = max(0.0, time.time() - said) if known and isinstance(said, int | float) else None
    closed = progress.get("closed") is True
    elsewhere = progress.get("host") not in (None, socket.gethostname())
    running = is_locked(folder) or (elsewhere and not closed and age is not None and age < RECENT_SECONDS)
    files = sorted(folder.glob(f"*/{VARIANT_FILE}"), key=lambda file: file.stat().st_mtime)
    return RunStatus(
        "running" if running else "finished" if progress.get("finished") is True else "stopped",
        progress,
        age,
        tuple(_variant(file.parent) for file in files),
    )


def _progress(path: Path) -> dict[str, Any]:
    """What the run last said; nothing where its file is missing or damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(content, dict):
        return {}
    return {key: visible_line(value) if isinstance(value, str) else value for key, value in content.items()}


def _variant(folder: Path) -> VariantStatus:
    try:
        about = json.loads((folder / VARIANT_FILE).read_text(encoding="utf-8"))
        trained_in = folder.parent / Path(str(about["trained_in"])).name
    except (OSError, ValueError, KeyError, TypeError):
        trained_in = folder
    found = steps(trained_in)
    step, checkpoint = found[-1] if found else (None, None)
    return VariantStatus(
        visible_line(folder.name),
        step,
        None if checkpoint is None else steps_wanted(checkpoint),
        tuple(visible_line(file.stem) for file in sorted((folder / "results").glob("*.json"))),
    )
