"""What a run of the tests learns, and the same run learning something else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from opendllm.core.training.documents import DocumentTraining
from opendllm.core.training.trainer import TrainingRun


def documents_of(run: TrainingRun) -> DocumentTraining:
    """Of a run that learns documents."""
    assert isinstance(run.method, DocumentTraining)
    return run.method


def learning(run: TrainingRun, **changes: Any) -> TrainingRun:
    """With another objective, noise schedule or rows."""
    return replace(run, method=replace(documents_of(run), **changes))
