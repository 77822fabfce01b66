"""samples/BENCHMARK.jsonl: every answer as it is given, so that a killed evaluation loses none."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from opendllm.core.checkpoints.files import write_text
from opendllm.registries.benchmarks import Answer, GeneratedText, TextLikelihood
from opendllm.registries.errors import UserError

AnswerKey = tuple[str, str, int]
"""(task id, setting, sample)."""


class AnswerFile:
    """Appends answers; each carries the digest of the settings it was made with."""

    def __init__(self, path: Path, settings_digest: str) -> None:
        """Open the file and read what an earlier evaluation left.

        Raises:
            UserError: it holds answers that were made with other settings.
        """
        self._path = path
        self._digest = settings_digest
        self.lines: dict[AnswerKey, dict[str, Any]] = {}
        kept = []
        for number, text in enumerate(_read_lines(path), start=1):
            try:
                line = json.loads(text)
            except ValueError:
                break  # cut short by a kill; what follows is made again
            if line["digest"] != settings_digest:
                raise UserError(
                    f"{path}:{number} was made with other settings or another model: "
                    f"keep it by choosing another `output`, or delete the file"
                )
            self.lines[(line["task_id"], line["setting"], line["sample"])] = line
            kept.append(text)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, "".join(text + "\n" for text in kept))

    def add(self, key: AnswerKey, content: Mapping[str, Any]) -> None:
        """Append one answer."""
        task_id, setting, sample = key
        line = {"task_id": task_id, "setting": setting, "sample": sample, **content, "digest": self._digest}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self.lines[key] = line


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
        )
    return GeneratedText(
        line["task_id"],
        line["setting"],
        line["sample"],
        line["text"],
        tuple(line["tokens"]),
        tuple(line["reference_tokens"]),
    )


def _read_lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
