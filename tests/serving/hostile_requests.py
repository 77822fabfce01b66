"""Requests that are wrong, too large, given up, or never finished."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from opendllm.core.serving.limits import Limits

JSON = {"Content-Type": "application/json"}
GOOD = {"model": "llada", "prompt": "ab", "max_tokens": 48, "temperature": 5}


@dataclass(frozen=True)
class Hostile:
    """Something to send.

    Attributes:
        status: of the answer; None where none is waited for.
        data: bytes of the request.
        hangs: whether the connection stays open, with nothing more said.
    """

    status: int | None
    data: bytes
    hangs: bool = False


def request(
    body: bytes,
    path: str = "/v1/completions",
    method: str = "POST",
    length: int | None = None,
    **headers: str,
) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost"]
    given = {**JSON, "Content-Length": str(len(body) if length is None else length)}
    given |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines += [f"{name}: {value}" for name, value in given.items() if value]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def good(**fields: object) -> bytes:
    return json.dumps({**GOOD, **fields}).encode()


TOO_LARGE = Limits().body_bytes + 1
KINDS: dict[str, Callable[[str], Hostile]] = {
    "no JSON": lambda auth: Hostile(400, request(b"{", Authorization=auth)),
    "no UTF-8": lambda auth: Hostile(400, request(b'{"model": "\xff"}', Authorization=auth)),
    "a lone surrogate": lambda auth: Hostile(400, request(good(user="\ud800"), Authorization=auth)),
    "no object": lambda auth: Hostile(400, request(b"[]", Authorization=auth)),
    "nothing": lambda auth: Hostile(400, request(b"", Authorization=auth)),
    "deep": lambda auth: Hostile(400, request(b"[" * 100_000, Authorization=auth)),
    "no number": lambda auth: Hostile(400, request(b'{"n": NaN}', Authorization=auth)),
    "a huge number": lambda auth: Hostile(400, request(b'{"n": 1' + b"0" * 5000 + b"}", Authorization=auth)),
    "another type": lambda auth: Hostile(400, request(good(prompt={"a": [1]}), Authorization=auth)),
    "no model": lambda auth: Hostile(404, request(good(model="\x1b[31m\n"), Authorization=auth)),
    "a stranger's option": lambda auth: Hostile(400, request(good(__class__=1), Authorization=auth)),
    "endless steps": lambda auth: Hostile(400, request(good(steps=10**15), Authorization=auth)),
    "a block beyond 64 bits": lambda auth: Hostile(
        400, request(good(block_length=10**30), Authorization=auth)
    ),
    "a block beyond 63 bits": lambda auth: Hostile(
        400, request(good(block_length=2**63), Authorization=auth)
    ),
    "no host": lambda auth: Hostile(
        403, request(good(), Authorization=auth).replace(b"Host: localhost", b"Host: [", 1)
    ),
    "no site": lambda auth: Hostile(403, request(good(), Authorization=auth, Origin="http://[")),
    "no JSON by its header": lambda auth: Hostile(
        415, request(good(), Content_Type="text/plain", Authorization=auth)
    ),
    "another path": lambda auth: Hostile(404, request(b"{}", "/../etc/passwd", Authorization=auth)),
    "another method": lambda auth: Hostile(405, request(b"", method="GET", Authorization=auth)),
    "no token": lambda auth: Hostile(401, request(good())),
    "another token": lambda auth: Hostile(401, request(good(), Authorization="Bearer x")),
    "another site": lambda auth: Hostile(
        403, request(good(), Authorization=auth, Origin="https://elsewhere.example")
    ),
    "too large": lambda auth: Hostile(413, request(b" " * TOO_LARGE, Authorization=auth)),
    "too large in the end": lambda auth: Hostile(
        413,
        request(b"", Content_Length="", Transfer_Encoding="chunked", Authorization=auth)
        + b"".join(b"100000\r\n" + b" " * 0x100000 + b"\r\n" for _ in range(3))
        + b"0\r\n\r\n",
    ),
    "no HTTP": lambda auth: Hostile(None, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"),
    "half a header": lambda auth: Hostile(None, b"POST /v1/completions HTTP/1.1\r\nHost: loc", hangs=True),
    "half a body": lambda auth: Hostile(None, request(b"{", length=100, Authorization=auth), hangs=True),
    "an answer that nobody reads": lambda auth: Hostile(
        None, request(good(stream=True), Authorization=auth), hangs=True
    ),
    "given up": lambda auth: Hostile(None, request(good(), Authorization=auth)),
    "a stream given up": lambda auth: Hostile(None, request(good(stream=True), Authorization=auth)),
    "half a body, given up": lambda auth: Hostile(None, request(b"{", length=100, Authorization=auth)),
}


def send(port: int, hostile: Hostile) -> tuple[int | None, bytes, socket.socket]:
    """(status, body, the connection, which is closed unless the request hangs)."""
    connection = socket.create_connection(("127.0.0.1", port))
    with suppress(BrokenPipeError, ConnectionResetError):  # it has heard enough
        connection.sendall(hostile.data)
    if hostile.hangs:
        return None, b"", connection
    if hostile.status is None:
        # Gone without a word of it.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
        return None, b"", connection
    answer = b""
    while b"\r\n\r\n" not in answer and (part := connection.recv(65536)):
        answer += part
    head, _, body = answer.partition(b"\r\n\r\n")
    length = next(
        int(line.partition(b":")[2])
        for line in head.split(b"\r\n")
        if line.lower().startswith(b"content-length")
    )
    while len(body) < length and (part := connection.recv(65536)):
        body += part
    connection.close()
    return int(head.split()[1]), body, connection
