"""Shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

# Before torch is imported anywhere: spinning threads starve each other on two cores.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def repository() -> Path:
    """The checkout's root."""
    return REPOSITORY


@pytest.fixture(scope="session")
def goldens() -> Path:
    """Tiny checkpoints and what the published code computes on them."""
    return REPOSITORY / "tests" / "goldens"
