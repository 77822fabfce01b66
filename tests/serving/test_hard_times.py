"""A server that isn't left in peace, and one that is asked to stop."""

from __future__ import annotations

import json
import random
import signal
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest

from opendllm.core import load

from .conftest import Server, start_server
from .hostile_requests import KINDS, send

TOKEN = "a-token"
MODEL, HOSTILE, GOOD = "llada", 500, 16
LONG = 150
"""Tokens: of a text that is still being written a while after its first piece has come."""


def client(server: Server, **options: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", **{"api_key": TOKEN, "max_retries": 0, **options})


@pytest.fixture(scope="module")
def guarded(served_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One place, and few that may wait; stopped by the last test."""
    file = tmp_path_factory.mktemp("token") / "token"
    file.write_text(f"{TOKEN}\n")
    running = start_server(served_run, "--token-file", file, "--batch-size", "4", "--queue", "24")
    yield running
    running.process.kill()
    running.process.communicate()


@pytest.fixture(scope="module")
def hanging() -> Iterator[list[socket.socket]]:
    """Connections that stay open until the server has been stopped."""
    connections: list[socket.socket] = []
    yield connections
    for connection in connections:
        connection.close()


def test_good_requests_get_their_answers_between_hundreds_of_others(
    guarded: Server, served_run: Path, hanging: list[socket.socket]
) -> None:
    written = load(served_run / "llada", device="cpu")
    expected = [
        written.generate(["def f"], max_new_tokens=32, temperature=5.0, seed=seed)[0] for seed in range(GOOD)
    ]
    kinds = [*KINDS] * (HOSTILE // len(KINDS) + 1)
    random.Random(0).shuffle(kinds)

    def attack(kind: str) -> None:
        hostile = KINDS[kind](f"Bearer {TOKEN}")
        status, body, connection = send(guarded.port, hostile)
        assert status == hostile.status, (kind, status, body)
        if status is not None:
            error = json.loads(body)["error"]
            assert set(error) == {"message", "type", "param", "code"}, kind
        if hostile.hangs:
            hanging.append(connection)

    def ask(seed: int) -> str:
        with client(guarded, max_retries=20) as made:  # others may have taken all places to wait
            asked: dict[str, Any] = {"model": MODEL, "prompt": "def f", "max_tokens": 32, "temperature": 5}
            if seed % 2:
                return made.completions.create(seed=seed, **asked).choices[0].text
            chunks = made.completions.create(seed=seed, stream=True, **asked)
            return "".join(chunk.choices[0].text for chunk in chunks)

    with ThreadPoolExecutor(4) as attackers, ThreadPoolExecutor(3) as askers:
        attacks = attackers.map(attack, kinds[:HOSTILE])
        found = list(askers.map(ask, range(GOOD)))
        assert len(list(attacks)) == HOSTILE
    assert found == expected
    with client(guarded) as made:
        assert made.completions.create(model=MODEL, prompt="x", max_tokens=2).choices
    assert len(hanging) > 30


def test_more_than_may_wait_are_refused_until_others_have_gone(guarded: Server) -> None:
    asked: dict[str, Any] = {"model": MODEL, "prompt": "a", "max_tokens": LONG}
    with client(guarded) as made:
        stream = made.completions.create(n=24, stream=True, **asked)
        next(iter(stream))
        with pytest.raises(openai.RateLimitError, match="are waiting already") as refused:
            made.completions.create(n=24, **asked)
        assert refused.value.response.headers["retry-after"] == "1"
        stream.close()  # nobody waits for these any more
        again = made.with_options(max_retries=100).completions.create(
            model=MODEL, prompt="a", max_tokens=2, n=24
        )
    assert len(again.choices) == 24


def test_what_runs_may_end_when_the_server_is_stopped(guarded: Server) -> None:
    """Requests that hang are open meanwhile."""
    with client(guarded) as made:
        asked: dict[str, Any] = {
            "model": MODEL,
            "prompt": "a",
            "max_tokens": LONG,
            "temperature": 5,
            "seed": 1,
        }
        whole = made.completions.create(**asked).choices[0].text
        stream = iter(made.completions.create(stream=True, **asked))
        first = next(stream)
        guarded.process.send_signal(signal.SIGTERM)
        assert first.choices[0].text + "".join(chunk.choices[0].text for chunk in stream) == whole
    assert guarded.process.wait() == 0
    assert guarded.process.stderr is not None
    errors = guarded.process.stderr.read()
    assert errors.splitlines()[-1] == "stopped"
    assert "Traceback" not in errors, errors
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", guarded.port))


REFUSALS: dict[str, Callable[[Path], tuple[list[str], str]]] = {
    "no checkpoint": lambda run: ([f"{run}x"], "does not exist"),
    "no model": lambda run: ([str(run.parent)], "holds whole runs: name a variant"),
    "another machine's": lambda run: ([str(run), "--host", "0.0.0.0"], "give --token-file FILE, or set"),
    "no token file": lambda run: ([str(run), "--token-file", f"{run}/no"], "can't be read"),
    "an empty token": lambda run: ([str(run), "--token-file", "/dev/null"], "holds no token"),
    "no such host": lambda run: (
        [str(run), "--host", "198.51.100.1", "--token-file", f"{run}/t"],
        "can't listen on",
    ),
    "a mistyped sampler": lambda run: ([str(run), "--sampler", "p3"], "did you mean 'p2'"),
    "a mistyped option": lambda run: ([str(run), "-o", "stepz=3"], "did you mean 'steps'"),
    "an option out of range": lambda run: ([str(run), "-o", "steps=0"], "steps: "),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_can_t_be_served_is_refused_in_a_line(
    served_run: Path, refused: Callable[..., str], name: str
) -> None:
    (served_run / "t").write_text(TOKEN)
    arguments, said = REFUSALS[name](served_run)
    assert said in refused("serve", *arguments)


def test_a_port_that_is_taken_is_said_before_a_model_is_loaded(
    served_run: Path, refused: Callable[..., str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = refused("serve", served_run, "--port", str(port))
    assert f"can't listen on 127.0.0.1, port {port}" in line


def test_the_extra_is_named_where_it_is_missing(
    served_run: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "uvicorn" else found(name, *rest)
    )
    assert refused("serve", served_run) == "error: serve needs uvicorn: pip install 'open-dllm[serve]'"
