"""Tiny checkpoints of every family, loaded once."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from opendllm.core import load
from opendllm.core.language_model import LanguageModel

FAMILIES = ("open-dcoder", "llada", "dream")


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    """Each registered family in turn."""
    return str(request.param)


@pytest.fixture(scope="session")
def golden_model(goldens: Path) -> Callable[[str], LanguageModel]:
    """The golden checkpoint of a family."""
    return functools.cache(lambda family: load(goldens / family, mask_token_id=150, device="cpu"))


@pytest.fixture(scope="session")
def expected(goldens: Path) -> Callable[[str], dict[str, Any]]:
    """What the published code computed with it."""
    return functools.cache(lambda family: json.loads((goldens / family / "expected.json").read_text()))
