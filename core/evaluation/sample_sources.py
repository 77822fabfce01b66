"""The forms that samples come in from elsewhere: JSON lines, EvalPlus's folders, bigcode's lists of lists."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from opendllm.core.foundation.json_lines import JsonLine, json_lines
from opendllm.registries.errors import UserError

LARGEST_LIST = 2**30
"""Bytes of a JSON file that is read as a whole."""


def sample_lines(path: Path, tasks: Sequence[str]) -> Iterator[tuple[str, JsonLine]]:
    """(where it stands, the line) of every sample of a file or folder.

    Args:
        path: JSON lines, gzipped or not; a folder with one of its own for each task and a `.py` file for
            each sample, as EvalPlus writes it; or a JSON file with a list for each problem, in the
            benchmark's order, of its whole programs, as bigcode-evaluation-harness writes it.
        tasks: ids of the benchmark's, in its order.

    Raises:
        UserError: it can't be read.
    """
    if path.is_dir():
        yield from _from_folder(path, frozenset(tasks))
        return
    generations = _generations(path)
    if generations is None:
        yield from ((f"{path}:{line.number}", line) for line in json_lines(path))
        return
    for number, programs in enumerate(generations):
        for sample, program in enumerate(programs):
            where = f"{path}: list {number}, sample {sample}"
            if number >= len(tasks):
                yield where, JsonLine(number + 1, {}, f"is one too many: there are {len(tasks)} problems")
            else:
                yield where, JsonLine(number + 1, {"task_id": tasks[number], "solution": program})


def _from_folder(folder: Path, tasks: frozenset[str]) -> Iterator[tuple[str, JsonLine]]:
    """FOLDER/HumanEval_0/0.py; what isn't UTF-8 keeps its place, with lone surrogates, so that it counts."""
    number = 0
    for task_folder in sorted(filter(Path.is_dir, folder.iterdir()), key=_in_numbers):
        name = task_folder.name
        task = name if name in tasks else "/".join(name.rsplit("_", 1))
        for file in sorted(task_folder.glob("*.py"), key=_in_numbers):
            number += 1
            try:
                text = file.read_text(encoding="utf-8", errors="surrogateescape")
            except OSError as error:
                raise UserError(f"{file} cannot be read: {error.strerror}") from error
            yield str(file), JsonLine(number, {"task_id": task, "solution": text})
    if not number:
        raise UserError(f"{folder} has no .py files in folders named after tasks, as in HumanEval_0/0.py")


def _generations(path: Path) -> list[list[object]] | None:
    """The lists of a file that holds nothing else; None of JSON lines."""
    try:
        with path.open("rb") as file:
            if not file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
                return None
        if path.stat().st_size > LARGEST_LIST:
            return None
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError):
        return None
    return content if content and all(isinstance(of_problem, list) for of_problem in content) else None


def _in_numbers(path: Path) -> list[tuple[int, str]]:
    """Sorts 10 behind 9."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path.name)]
