"""samples/BENCHMARK.jsonl: every answer as it is given, so that a killed evaluation loses none."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from opendllm.core.evaluation.shards import ALONE, Shard
from opendllm.core.foundation.atomic_files import write_text
from opendllm.core.foundation.json_lines import JsonLine, json_lines
from opendllm.registries.benchmarks import Answer, GeneratedText, TextLikelihood
from opendllm.registries.errors import UserError

AnswerKey = tuple[str, str, int]
"""(task id, setting, sample)."""
_FIELDS = frozenset({"task_id", "setting", "sample", "digest"})


class AnswerFile:
    """Appends answers; each carries the digest of the settings it was made with.

    Of several processes each appends to a file of its own beside it, FILE.part-N, and the first one
    merges them. What a killed evaluation left in such parts is taken in when the file is opened.
    """

    def __init__(self, path: Path, settings_digest: str, shard: Shard = ALONE) -> None:
        """Open the file and read what an earlier evaluation left; all processes do so together.

        Raises:
            UserError: it holds answers that were made with other settings.
        """
        self.path = path
        self._digest = settings_digest
        self._shard = shard
        self.lines: dict[AnswerKey, dict[str, Any]] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        if self._shard.is_first:
            self._merge(())
        else:
            self._read(path)  # answers made with other settings are refused by all, none left waiting
        self._shard.wait()
        if not self._shard.is_first:
            self.lines = self._read(path)
        self._own = path if self._shard.of == 1 else _part(path, self._shard.rank)
        self._shard.wait()  # nobody appends before everybody has read

    def add(self, key: AnswerKey, content: Mapping[str, Any]) -> None:
        """Append one answer."""
        task_id, setting, sample = key
        line = {"task_id": task_id, "setting": setting, "sample": sample, **content, "digest": self._digest}
        with self._own.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self.lines[key] = line

    def gather(self, order: Iterable[AnswerKey]) -> None:
        """Wait for all processes; the first one then has every answer, in one file.

        Args:
            order: of the lines in the file; those of other keys follow.
        """
        self._shard.wait()
        if self._shard.is_first:
            self._merge(order)

    def _merge(self, order: Iterable[AnswerKey]) -> None:
        parts = sorted(self.path.parent.glob(f"{self.path.name}.part-*"))
        found = self._read(self.path)
        for part in parts:
            for key, line in self._read(part).items():
                found.setdefault(key, line)
        wished = [key for key in order if key in found]
        self.lines = {key: found[key] for key in [*wished, *found]}
        text = "".join(json.dumps(line) + "\n" for line in self.lines.values())
        if not self.path.is_file() or self.path.read_text(encoding="utf-8", errors="replace") != text:
            write_text(self.path, text)
        for part in parts:
            part.unlink()

    def _read(self, path: Path) -> dict[AnswerKey, dict[str, Any]]:
        lines: dict[AnswerKey, dict[str, Any]] = {}
        for found in _complete_lines(path):
            number, line = found.number, found.content
            if not line.keys() >= _FIELDS:
                raise UserError(f"{path}:{number} is no answer of an evaluation: move the file away")
            if line["digest"] != self._digest:
                raise UserError(
                    f"{path}:{number} was made with other settings or another model: "
                    f"keep it by choosing another `output`, or delete the file"
                )
            lines.setdefault((line["task_id"], line["setting"], line["sample"]), line)
        return lines


def answer_of(line: Mapping[str, Any]) -> Answer:
    """What the benchmark is handed."""
    if "log_likelihood" in line:
        return TextLikelihood(
            line["task_id"],
            line["setting"],
            line["log_likelihood"],
            line["variance"],
            line["tokens"],
            line["bytes"],
            line.get("greedy"),
        )
    return GeneratedText(
        line["task_id"],
        line["setting"],
        line["sample"],
        line["text"],
        tuple(line["tokens"]),
        tuple(line["reference_tokens"]),
        line.get("ended"),
        failure=line.get("failure"),
    )


def _part(path: Path, rank: int) -> Path:
    return path.with_name(f"{path.name}.part-{rank}")


def _complete_lines(path: Path) -> Iterator[JsonLine]:
    """All but the lines that a kill cut short: those are made again."""
    lines = json_lines(path) if path.is_file() else ()
    return (line for line in lines if line.issue is None)
