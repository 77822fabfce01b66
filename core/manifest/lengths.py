"""What a run writes has names that the file system takes: known before anything is trained."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

_LONGEST_ADDITION = len("..jsonl.4194304.partial")
"""What is put around a label while its file is written."""
_LONGEST_WITHIN = len("/checkpoints/.step-1000000.partial/deepspeed/") + 100
"""Below a variant's folder, DeepSpeed's own names among it."""


def unwritable(output: Path, variant: str, labels: list[str]) -> Iterator[tuple[str, str]]:
    """(the key, why) of what the file system of a run's folder can't hold.

    Args:
        output: the run's folder, which need not exist.
        variant: its variant's name.
        labels: of what it evaluates, in order.
    """
    whole = output.absolute()
    longest_name, longest_path = _limits(whole)
    room = longest_path - _LONGEST_WITHIN - _bytes(variant)
    parts = [part for part in output.parts if _bytes(part) > longest_name]
    if parts:
        yield (
            "output",
            f"{_shown(parts[0])} is longer than the {longest_name} bytes that a name may have there",
        )
    elif _bytes(str(whole)) > room:
        yield "output", f"is longer than the {room} bytes that leave room for what a run writes below it"
    if _bytes(variant) > longest_name:
        yield (
            f"variants.{_shown(variant)}",
            f"is longer than the {longest_name} bytes that a name may have there",
        )
    for index, label in enumerate(labels):
        if _bytes(label) > longest_name - _LONGEST_ADDITION:
            longest = longest_name - _LONGEST_ADDITION
            yield (
                f"evaluate.{index}",
                f"{_shown(label)} is longer than the {longest} bytes that a label may have",
            )


def _limits(path: Path) -> tuple[int, int]:
    """(bytes of a name, of a path) on the file system that `path` is or will be on."""
    for folder in path.parents:
        try:
            return os.pathconf(folder, "PC_NAME_MAX"), os.pathconf(folder, "PC_PATH_MAX")
        except OSError:
            continue
    return 255, 4096


def _bytes(name: str) -> int:
    return len(os.fsencode(name))


def _shown(name: str) -> str:
    return name if len(name) <= 40 else f"{name[:30]}... ({_bytes(name)} bytes)"
