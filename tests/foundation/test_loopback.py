"""Which hosts are this machine alone: who is served without a token, and asked without a proxy."""

from __future__ import annotations

import pytest

from opendllm.core.endpoints.server import is_here
from opendllm.core.foundation.loopback import is_loopback
from opendllm.core.manifest.endpoint_schema import Endpoint

HERE = ["localhost", "LOCALHOST.", "a.localhost", "127.0.0.1", "127.8.8.8", "[::1]", "localhost."]
ELSEWHERE = ["0.0.0.0", "localhost.example", "127.0.0.1.example", "10.0.0.1", "[2001:db8::1]"]


@pytest.mark.parametrize("host", [*HERE, *ELSEWHERE])
def test_a_server_and_who_asks_one_mean_the_same_by_this_machine(host: str) -> None:
    assert is_loopback(host) == (host in HERE)
    assert is_here(Endpoint(endpoint=f"http://{host}:8000", model="m")) == (host in HERE)


def test_no_host_is_not_this_machine() -> None:
    assert not is_loopback("")
