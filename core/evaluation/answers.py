"""samples/BENCHMARK.jsonl: every answer as it is given, so that a killed evaluation loses none."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from opendllm.core.evaluation.shards import ALONE, Shard
from opendllm.core.foundation.atomic_files import write_text, writing
from opendllm.core.foundation.sample_records import SampleKey, SampleRecord, read_records, record_line
from opendllm.registries.errors import UserError

_FIELDS = frozenset({"task_id", "setting", "sample", "digest"})
"""What every line of an evaluation has; samples from elsewhere may lack some."""


class AnswerFile:
    """Appends answers; each carries the digest of the settings it was made with.

    Of several processes each appends to a file of its own beside it, FILE.part-N, and the first one
    merges them. What a killed evaluation left in such parts is taken in when the file is opened.

    Attributes:
        path: the file.
        digest: of the settings that the answers are made with.
        records: the answers on file.
    """

    def __init__(
        self,
        path: Path,
        settings_digest: str,
        shard: Shard = ALONE,
        others: Iterable[tuple[Path, str]] = (),
    ) -> None:
        """Open the file and read what an earlier evaluation left; all processes do so together.

        Args:
            path: of the file.
            settings_digest: of the model and of how it is asked.
            shard: this process's part.
            others: files of answers that would be given here too, with their digests: they are taken over.

        Raises:
            UserError: it holds answers that were made with other settings.
        """
        self.path = path
        self.digest = settings_digest
        self._shard = shard
        self.records: dict[SampleKey, SampleRecord] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        if self._shard.is_first:
            self._merge((), others)
        else:
            self._read(path)  # answers made with other settings are refused by all, none left waiting
        self._shard.wait()
        if not self._shard.is_first:
            self.records = self._read(path)
        self._own = path if self._shard.of == 1 else _part(path, self._shard.rank)
        self._shard.wait()  # nobody appends before everybody has read

    def add(self, record: SampleRecord) -> None:
        """Append one answer."""
        record = replace(record, digest=self.digest)
        with writing(self._own), self._own.open("a", encoding="utf-8") as file:
            file.write(record_line(record))
        self.records[record.key] = record

    def gather(self, order: Iterable[SampleKey]) -> None:
        """Wait for all processes; the first one then has every answer, in one file.

        Args:
            order: of the lines in the file; those of other keys follow.
        """
        self._shard.wait()
        if self._shard.is_first:
            self._merge(order)

    def _merge(self, order: Iterable[SampleKey], others: Iterable[tuple[Path, str]] = ()) -> None:
        parts = sorted(self.path.parent.glob(f"{self.path.name}.part-*"))
        found = self._read(self.path)
        for part in parts:
            for key, record in self._read(part).items():
                found.setdefault(key, record)
        for other, digest in others:
            for key, record in _records(other, digest).items():
                # What it took is counted where it was given.
                found.setdefault(key, replace(record, digest=self.digest, seconds=0.0))
        wished = [key for key in order if key in found]
        self.records = {key: found[key] for key in [*wished, *found]}
        text = "".join(map(record_line, self.records.values()))
        if not self.path.is_file() or self.path.read_text(encoding="utf-8", errors="replace") != text:
            write_text(self.path, text)
        for part in parts:
            part.unlink()

    def _read(self, path: Path) -> dict[SampleKey, SampleRecord]:
        """All but the lines that a kill cut short: those are made again."""
        records: dict[SampleKey, SampleRecord] = {}
        for line, record in read_records(path) if path.is_file() else ():
            if line.issue is not None:
                continue
            if isinstance(record, str) or not line.content.keys() >= _FIELDS:
                raise UserError(f"{path}:{line.number} is no answer of an evaluation: move the file away")
            if record.digest != self.digest:
                raise UserError(
                    f"{path}:{line.number} was made with other settings or another model: "
                    f"keep it by choosing another `output` (--output of `evaluate`), or delete the file"
                )
            records.setdefault(record.key, record)
        return records


def _records(path: Path, digest: str) -> dict[SampleKey, SampleRecord]:
    """The answers in another file that have this digest."""
    lines = read_records(path) if path.is_file() else ()
    found = [record for line, record in lines if line.issue is None and isinstance(record, SampleRecord)]
    return {record.key: record for record in found if record.digest == digest}


def _part(path: Path, rank: int) -> Path:
    return path.with_name(f"{path.name}.part-{rank}")
