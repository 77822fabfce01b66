"""Which process this is, by what a launcher says."""

from __future__ import annotations

import pytest

from opendllm.core.foundation.ranks import (
    is_first_process,
    local_rank,
    rank,
    started_by_launcher,
    world_size,
)

LAUNCHED = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "host", "MASTER_PORT": "1"}


@pytest.fixture(autouse=True)
def nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in LAUNCHED:
        monkeypatch.delenv(name, raising=False)


def set_variables(monkeypatch: pytest.MonkeyPatch, without: str | None = None) -> None:
    for name, value in LAUNCHED.items():
        if name != without:
            monkeypatch.setenv(name, value)


def test_a_launchers_variables_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    set_variables(monkeypatch)
    assert started_by_launcher()
    assert (rank(), world_size(), local_rank(), is_first_process()) == (3, 4, 1, False)


@pytest.mark.parametrize("missing", ["RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"])
def test_some_of_them_alone_are_no_launcher(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    """A shell or a job script may have set RANK for a purpose of its own; the run must still be written."""
    set_variables(monkeypatch, without=missing)
    assert not started_by_launcher()
    assert (rank(), world_size(), local_rank(), is_first_process()) == (0, 1, 0, True)


def test_a_launcher_that_names_no_gpu_means_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    set_variables(monkeypatch, without="LOCAL_RANK")
    assert (rank(), local_rank()) == (3, 0)
