"""Says what of a corpus is not trained on, and refuses what leaves nothing."""

from __future__ import annotations

import sys

from opendllm.core.data.token_files import SplitFacts
from opendllm.registries.corpora import Split
from opendllm.registries.errors import UserError


def report_left_out(
    corpus: str, split: Split, facts: SplitFacts, first_skipped: str, sequence_length: int
) -> None:
    """One line on standard error for each reason that something is left out.

    Args:
        corpus: its plugin's name.
        split: which part of it.
        facts: of that part.
        first_skipped: what is wrong with the first record that was skipped.
        sequence_length: of a row.

    Raises:
        UserError: nothing is left.
    """
    if facts.skipped:
        _report(
            f"corpus {corpus}: {facts.skipped} {split} records can't be read and are left out, the first: "
            f"{first_skipped}"
        )
    if facts.documents == 0:
        why = f": all {facts.held_out} that it has are held out as well" if facts.held_out else ""
        raise UserError(f"corpus {corpus} has no {split} documents{why}")
    if facts.held_out:
        read = facts.documents + facts.held_out
        _report(
            f"corpus {corpus}: of {read} {split} documents {facts.held_out} are held out as well, by their "
            f"text, and are not trained on"
        )
    if facts.rows == 0:
        raise UserError(
            f"no {split} prompt leaves room for an answer: raise data.sequence_length ({sequence_length})"
        )
    if facts.shortened or facts.dropped:
        _report(
            f"of {facts.documents} {split} documents with a prompt {facts.shortened} lost their end, and "
            f"{facts.dropped} are left out for prompts that fill a row: data.sequence_length is "
            f"{sequence_length}"
        )


def _report(line: str) -> None:
    print(line, file=sys.stderr)
