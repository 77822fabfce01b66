"""A real HTTP server that speaks the completions API, and every dialect of getting it wrong."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opendllm.core.endpoints.completions import SHORT_TEXT


@dataclass(frozen=True)
class Asked:
    """A request as it came in."""

    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]


@dataclass(frozen=True)
class Reply:
    """A response.

    Attributes:
        content: its body; anything but bytes is sent as JSON.
        status: its status.
        headers: beside its length.
        stops_after: bytes of the body after which the connection is dropped; None sends them all.
        pauses: seconds between its bytes.
        waits: what is waited for before anything is sent.
    """

    content: Any
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    stops_after: int | None = None
    pauses: float = 0.0
    waits: threading.Event | None = None

    @property
    def body(self) -> bytes:
        return self.content if isinstance(self.content, bytes) else json.dumps(self.content).encode()


def written(asked: Asked) -> str:
    """What it writes: another text for another prompt, suffix or seed, always the same for the same."""
    prompt = asked.body.get("prompt", asked.body.get("messages"))
    what = json.dumps([prompt, asked.body.get("suffix"), asked.body["seed"]])
    return f"{hashlib.sha256(what.encode()).hexdigest()[:12]} "


def completion(asked: Asked, text: str | None = None, reason: str = "length") -> Reply:
    """A right answer, of the form that was asked for."""
    text = written(asked) if text is None else text
    said = {"message": {"role": "assistant", "content": text}} if "messages" in asked.body else {"text": text}
    read = len(str(asked.body.get("prompt", asked.body.get("messages")))) + len(asked.body.get("suffix", ""))
    usage = {"prompt_tokens": read, "completion_tokens": 3, "total_tokens": read + 3}
    return Reply({"choices": [{"index": 0, **said, "finish_reason": reason}], "usage": usage})


def is_probe(asked: Asked) -> bool:
    """Whether it is only asked to see if it reads suffixes, or takes a short text."""
    said = [asked.body.get("prompt"), *(turn["content"] for turn in asked.body.get("messages", []))]
    return asked.body.get("max_tokens") == 1 or SHORT_TEXT in said


Answering = Callable[[Asked, int], Reply]
"""A request, and how many came before that were the same -> its reply."""


class FakeServer(ThreadingHTTPServer):
    """Attributes:
    asked: what was asked for text, in order, without probes.
    answering: what it does then.
    models: what it says that it serves; None where it knows no such path.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[Asked] = []
        self.all: list[Asked] = []
        self.answering: Answering = lambda asked, before: completion(asked)
        self.models: Reply | None = Reply({"object": "list", "data": [{"id": "tiny"}, {"id": "other"}]})
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def reply_to(self, asked: Asked) -> Reply:
        with self._lock:
            self.all.append(asked)
            if asked.path.endswith("/models"):
                return self.models or Reply({"detail": "Not Found"}, 404)
            before = sum(other.body == asked.body for other in self.asked)
            if not is_probe(asked):
                self.asked.append(asked)
        return self.answering(asked, before)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are part of the game."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else every answer waits for the client's delayed ACK
    server: FakeServer

    def do_GET(self) -> None:
        self._send(self.server.reply_to(Asked(self.path, dict(self.headers), {})))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._send(self.server.reply_to(Asked(self.path, dict(self.headers), body)))

    def _send(self, reply: Reply) -> None:
        if reply.waits is not None:
            reply.waits.wait(60)
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        content = reply.body[: reply.stops_after]
        if reply.pauses:
            for byte in content:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                time.sleep(reply.pauses)
        else:
            self.wfile.write(content)
        if reply.stops_after is not None:
            self.close_connection = True

    def log_message(self, format: str, *arguments: Any) -> None:
        """Says nothing."""


@contextmanager
def serving() -> Iterator[FakeServer]:
    """Such a server, on a free port of this machine."""
    with FakeServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def prompts(asked: Sequence[Asked]) -> list[str]:
    """What was asked, sorted."""
    return sorted(json.dumps([each.body.get("prompt"), each.body["seed"]]) for each in asked)
