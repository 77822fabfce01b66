"""A problem whose answers are rewarded, and an answer to one."""

from __future__ import annotations

from dataclasses import dataclass

from opendllm.registries.corpora import Message
from opendllm.registries.gaps import Gap


@dataclass(frozen=True)
class Problem:
    """What a model is asked while it learns from rewards, and what its answers are judged by.

    Attributes:
        task_id: names it; no two problems of a source share one.
        gap: what is to be written; with `messages`, the chat template writes its prefix.
        messages: the chat that the answer goes on, put into the checkpoint's template; empty for the gap's
            own text.
        answer: the right answer, for rewards that compare.
        tests: programs that raise where the answer's is wrong. Each is one of its own: the names that it uses
            and neither it nor `setup` defines are those of the answer's program.
        setup: whole statements that stand before the answer's program and before each test: imports, helpers.
    """

    task_id: str
    gap: Gap
    messages: tuple[Message, ...] = ()
    answer: str | None = None
    tests: tuple[str, ...] = ()
    setup: str = ""


@dataclass(frozen=True)
class Completion:
    """An answer to a problem.

    Attributes:
        problem: what it answers.
        sample: which of the answers to that problem, from 0.
        text: what was written, cut before the first stop id or stop string.
        tokens: its ids, up to and with the first stop id: as many as are trained on.
        ended: whether it stopped by itself, within the length.
    """

    problem: Problem
    sample: int
    text: str
    tokens: tuple[int, ...] = ()
    ended: bool = True
