"""A benchmark's problems: from a file, else from the Hugging Face hub, else one line that helps."""

from __future__ import annotations

import codecs
import gzip
import json
import threading
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opendllm.core.toolkit.hub import offline
from opendllm.registries.errors import UserError, first_line

HUB_ANSWER_SECONDS = 10
"""How long the hub may take to say whether it knows a data set."""
HUB_SECONDS = 180
"""How long the download of a benchmark may take in all; none is larger than some megabytes."""
_GZIP_MAGIC = b"\x1f\x8b"


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


@dataclass(frozen=True)
class JsonLine:
    """A line of a file: its object, or what is wrong with it."""

    number: int
    content: dict[str, Any]
    complaint: str | None = None


def read_problems(
    benchmark: str, path: str | None, source: ProblemSource, required: Sequence[str]
) -> list[dict[str, Any]]:
    """A benchmark's problems, in their published order.

    Args:
        benchmark: its name, for messages.
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
            f"benchmark {benchmark}: its problems are not here, and {source.dataset} cannot be had from the "
            f"hub ({first_line(error)}): download {source.download} and give the file as option `problems` "
            f"or --problems"
        ) from error
    for field in required:
        if not rows or field not in rows[0]:
            raise UserError(
                f"benchmark {benchmark}: {source.dataset} on the hub has no {field!r}: download "
                f"{source.download} and give the file as option `problems` or --problems"
            )
    return rows


def json_lines(path: Path) -> Iterator[JsonLine]:
    """Every line of a file that isn't blank: its JSON object, or what is wrong with it.

    Raises:
        UserError: the file can't be read at all.
    """
    try:
        with path.open("rb") as plain:
            packed = plain.read(2) == _GZIP_MAGIC
        with gzip.open(path, "rb") if packed else path.open("rb") as file:
            yield from parsed_lines(file)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise UserError(f"{path} cannot be read: {reason}") from error


def parsed_lines(lines: Iterable[bytes]) -> Iterator[JsonLine]:
    """The same of lines from anywhere; a newline alone ends one, and a byte order mark is no part of it."""
    for number, line in enumerate(lines, start=1):
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if line.strip():
            yield _parse(number, line)


def _parse(number: int, line: bytes) -> JsonLine:
    try:
        content = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
    except UnicodeDecodeError as error:
        return JsonLine(number, {}, f"is not UTF-8 (byte {error.start})")
    except (ValueError, RecursionError) as error:
        return JsonLine(number, {}, f"is not JSON ({first_line(error)})")
    if not isinstance(content, dict):
        return JsonLine(number, {}, "is no JSON object")
    return JsonLine(number, content)


def _from_file(path: Path, required: Sequence[str]) -> list[dict[str, Any]]:
    problems = []
    for line in json_lines(path):
        missing = [field for field in required if field not in line.content]
        if line.complaint is not None or missing:
            raise UserError(f"{path}:{line.number} {line.complaint or f'has no {missing[0]!r}'}")
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
    from huggingface_hub import HfApi
    from huggingface_hub.errors import OfflineModeIsEnabled

    def rows() -> list[dict[str, Any]]:
        return [dict(row) for row in load_dataset(source.dataset, source.configuration, split=source.split)]

    try:
        # Fails at once where the hub can't be reached; datasets would try for half a minute.
        HfApi().dataset_info(source.dataset, timeout=HUB_ANSWER_SECONDS)
    except OfflineModeIsEnabled:
        return rows()
    except Exception:  # of any kind of network trouble: a copy in the cache is as good
        with suppress(Exception), offline():
            return rows()
        raise
    return rows()
