"""What is to be judged, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Trial:
    """One program to be judged.

    Attributes:
        program: the text that a model wrote.
        parts: what it must pass, one after the other, each time in a process of its own.
        seconds: for each part, until the judge's script sets another limit with `Candidate.limit`. No
            program gets more processor time than that.
    """

    program: str
    parts: tuple[str, ...] = ("tests",)
    seconds: float = 3.0


@dataclass(frozen=True)
class Case:
    """One problem: a judge's script with its data, and the programs to be judged.

    Attributes:
        name: for messages.
        script: see `judge`.
        data: JSON; handed to the script.
        trials: the programs.
        remembered: file for the text that the script remembers of the problem; `prepare` finds it in the
            data as `remembered`. None where it remembers nothing.
    """

    name: str
    script: str
    data: Any
    trials: tuple[Trial, ...]
    remembered: Path | None = None


@dataclass(frozen=True)
class Verdict:
    """What became of a trial.

    Attributes:
        passed: the parts that were passed; a part after a failed one isn't run.
        reason: "passed", or in a few words why the first failed part failed.
        unscorable: whether the benchmark is at fault: its own solution or tests don't run here.
    """

    passed: frozenset[str]
    reason: str
    unscorable: bool = False
