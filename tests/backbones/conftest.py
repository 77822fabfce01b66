"""Each family in turn."""

from __future__ import annotations

import pytest

FAMILIES = ("open-dcoder", "llada", "dream")


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    """Each registered family in turn."""
    return str(request.param)
