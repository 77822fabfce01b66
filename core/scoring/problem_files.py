"""A benchmark's problems: from a file, else from the Hugging Face hub, else one line that helps."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opendllm.core.foundation.hub import dataset_commit, offline
from opendllm.core.foundation.json_lines import json_lines
from opendllm.registries.benchmarks import GenerationRequest
from opendllm.registries.errors import UserError, first_line
from opendllm.registries.gaps import Gap

HUB_SECONDS = 180
"""How long the download of a benchmark may take in all; none is larger than some megabytes."""


@dataclass(frozen=True)
class ProblemSource:
    """Where a benchmark's problems are published.

    Attributes:
        dataset: hub id.
        split: of the data set.
        configuration: of the data set, where it has several.
        download: address of a file that `problems` takes, for those without the hub.
    """

    dataset: str
    split: str
    download: str
    configuration: str | None = None


def read_problems(path: str | None, source: ProblemSource, required: Sequence[str]) -> list[dict[str, Any]]:
    """A benchmark's problems, in their published order.

    Args:
        path: a file of JSON lines, gzipped or not; None asks the hub.
        source: where they are published.
        required: the fields that every problem must have.

    Raises:
        UserError: the file has a broken line (named) or none at all; or there is no file and the hub
            can't be reached in time, or doesn't have the data set.
    """
    if path is not None:
        return _from_file(Path(path).expanduser(), required)
    try:
        rows = _from_hub(source)
    except Exception as error:  # datasets and its HTTP client raise a dozen kinds
        raise UserError(
            f"its problems are not here, and {source.dataset} cannot be had from the "
            f"hub ({first_line(error)}): download {source.download} and give the file as option `problems` "
            f"(-o problems=FILE of `evaluate`, --problems FILE of `score`)"
        ) from error
    for field in required:
        if not rows or field not in rows[0]:
            raise UserError(
                f"{source.dataset} on the hub has no {field!r}: download "
                f"{source.download} and give the file as option `problems`"
            )
    return rows


def asked_or_failed(
    task_id: str, settings: Sequence[str], ask: Callable[[], Sequence[GenerationRequest]]
) -> Sequence[GenerationRequest]:
    """The requests of a problem; where they can't be made of it, some that say why: the others are asked.

    Args:
        task_id: the problem's.
        settings: the ways of asking, in each of which it then counts as wrong.
        ask: makes the requests.
    """
    try:
        return ask()
    except Exception as error:  # whatever a field raises that isn't as published
        reason = preparation_failure(error)
        return [GenerationRequest(task_id, Gap(""), setting=setting, failure=reason) for setting in settings]


def preparation_failure(error: Exception) -> str:
    """Why a problem can't be asked or judged."""
    return f"its preparation fails ({type(error).__name__}: {first_line(error)})"


def _from_file(path: Path, required: Sequence[str]) -> list[dict[str, Any]]:
    problems = []
    for line in json_lines(path):
        missing = [field for field in required if field not in line.content]
        if line.issue is not None or missing:
            raise UserError(f"{path}:{line.number} {line.issue or f'has no {missing[0]!r}'}")
        problems.append(line.content)
    if not problems:
        raise UserError(f"{path} holds no problems")
    return problems


def _from_hub(source: ProblemSource) -> list[dict[str, Any]]:
    """Download, or read what is in the cache; in another thread, which is given up when it hangs."""
    found: list[list[dict[str, Any]]] = []
    failed: list[Exception] = []

    def load() -> None:
        try:
            found.append(_load(source))
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=load, daemon=True)
    thread.start()
    thread.join(HUB_SECONDS)
    if failed:
        raise failed[0]
    if not found:
        raise TimeoutError(f"no answer within {HUB_SECONDS} seconds")
    return found[0]


def _load(source: ProblemSource) -> list[dict[str, Any]]:
    from datasets import load_dataset

    def rows() -> list[dict[str, Any]]:
        return [dict(row) for row in load_dataset(source.dataset, source.configuration, split=source.split)]

    try:
        dataset_commit(source.dataset)  # fails at once where datasets would try for half a minute
    except Exception:  # of any kind of network trouble: a copy in the cache is as good
        with suppress(Exception), offline():
            return rows()
        raise
    return rows()
