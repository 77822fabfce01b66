"""A candidate that is alive and talks nonsense has failed, whatever the tests make of it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from opendllm.core.sandbox.judge import _judged
from opendllm.core.sandbox.remote import Candidate
from opendllm.core.sandbox.wire import Channel


@pytest.fixture
def talks_nonsense() -> Iterator[Candidate]:
    """Its process lives on, so that nobody but the judge can notice."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        Channel(theirs).send(["no", "answer"])
        yield Candidate(Channel(ours), "", 30.0, lambda seconds: None)


def swallowing(candidate: Candidate, prepared: Any, part: str) -> None:
    try:
        candidate.load()
    except BaseException:
        return


def blaming(candidate: Candidate, prepared: Any, part: str) -> None:
    swallowing(candidate, prepared, part)
    raise AssertionError("a wrong output")


@pytest.mark.parametrize("judge", [swallowing, blaming])
def test_it_is_lost_whatever_its_tests_do(judge: Callable[..., None], talks_nonsense: Candidate) -> None:
    assert _judged(judge, talks_nonsense, None, "") == "sent no answer"
