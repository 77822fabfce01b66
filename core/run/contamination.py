"""contamination.json in a run's folder: how much of its benchmarks its training documents hold."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from opendllm.core.foundation.atomic_files import write_json
from opendllm.core.foundation.json_objects import read_json_object
from opendllm.registries.errors import UserError

CONTAMINATION_FILE = "contamination.json"


def is_checked(folder: Path, key: str) -> bool:
    """Whether the file is there, and of the same corpora and benchmarks."""
    try:
        return read_json_object(folder / CONTAMINATION_FILE).get("key") == key
    except UserError:
        return False


def write_contamination(folder: Path, key: str, content: Mapping[str, Any]) -> None:
    """Write the file; an earlier one stays until this one is whole."""
    write_json(folder / CONTAMINATION_FILE, {"key": key, **content})
