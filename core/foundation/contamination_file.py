"""contamination.json in a run's folder: how much of its benchmarks the documents hold that it trains on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from opendllm.core.foundation.atomic_files import write_json
from opendllm.core.foundation.json_objects import read_json_object
from opendllm.registries.errors import UserError

CONTAMINATION_FILE = "contamination.json"
SHARES = (0.1, 0.5, 0.9)
"""Tasks are counted of whose n-grams documents have more than this."""


def entries(folder: Path) -> list[dict[str, Any]]:
    """What was found for each of a run's corpora; empty where nobody has looked, or the file is damaged."""
    try:
        found = read_json_object(folder / CONTAMINATION_FILE).get("corpora")
    except UserError:
        return []
    listed = found if isinstance(found, list) else []
    return [entry for entry in listed if isinstance(entry, dict) and isinstance(entry.get("key"), str)]


def write_entries(folder: Path, found: Sequence[dict[str, Any]]) -> None:
    """Write the file; an earlier one stays until this one is whole."""
    write_json(folder / CONTAMINATION_FILE, {"corpora": list(found)})
