"""What becomes of records that can't be read: an error, or one more that is left out and counted."""

from __future__ import annotations

from opendllm.registries.corpora import Skipped, Split
from opendllm.registries.errors import UserError


class BadRecordError(UserError):
    """A record that can't be read; says what is wrong with it, and not where it is."""


class BadRecords:
    """Refuses, or counts, the bad records of each split."""

    def __init__(self, skip: bool) -> None:
        self._skip = skip
        self._found: dict[Split, Skipped] = {}

    def begin(self, split: Split) -> None:
        """A split is read from its beginning."""
        self._found[split] = Skipped()

    def add(self, split: Split, location: str, reason: str) -> None:
        """One more.

        Raises:
            UserError: none is to be skipped.
        """
        said = f"{location}: {reason}"
        if not self._skip:
            raise UserError(f"{said}; `on_bad_record: skip` leaves such records out, and counts them")
        before = self._found[split]
        self._found[split] = Skipped(before.count + 1, before.first or said)

    def of(self, split: Split) -> Skipped:
        """What its last reading found."""
        return self._found.get(split, Skipped())
