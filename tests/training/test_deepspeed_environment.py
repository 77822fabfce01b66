"""What training sets for DeepSpeed is gone when it ends: a child must not take itself for a rank."""

from __future__ import annotations

import os
from contextlib import suppress

import pytest

from opendllm.core.foundation.ranks import started_by_launcher
from opendllm.core.training.deepspeed_environment import deepspeed_environment

NAMES = ("LOCAL_RANK", "DS_ACCELERATOR")


@pytest.mark.parametrize("given", [{}, {"LOCAL_RANK": "3", "DS_ACCELERATOR": "cpu"}])
def test_the_environment_is_as_it_was_also_after_an_error(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str]
) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    for failing in (False, True):
        with suppress(ZeroDivisionError), deepspeed_environment():
            assert os.environ["LOCAL_RANK"] == given.get("LOCAL_RANK", "0")
            assert os.environ["DS_ACCELERATOR"] in ("cpu", "cuda")
            assert not started_by_launcher()
            if failing:
                raise ZeroDivisionError
        assert {name: os.environ[name] for name in NAMES if name in os.environ} == given


def test_its_shared_memory_collectives_are_never_compiled() -> None:
    with deepspeed_environment():
        import deepspeed.ops

        assert deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] is False
