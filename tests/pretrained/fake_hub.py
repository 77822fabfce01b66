"""As much of the Hugging Face hub as huggingface_hub 2.4 asks for to upload and download a model."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "0" * 39 + "1"


class FakeHub(ThreadingHTTPServer):
    """Serves `files` as every repository that `known` lists, and keeps what is committed.

    Attributes:
        files: of org/name, by path.
        committed: path -> content of what was uploaded.
        created: payloads of the repositories that were asked for.
        requests: "METHOD path" of each request.
        refusal: the status that uploads are refused with, or None.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.committed: dict[str, bytes] = {}
        self.created: list[dict[str, Any]] = []
        self.requests: list[str] = []
        self.refusal: int | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def environment(self, cache: Path) -> dict[str, str]:
        """For a process that shall take this for the hub."""
        return {
            "HF_ENDPOINT": self.address,
            "HF_HUB_OFFLINE": "0",
            "HF_HOME": str(cache),
            "HF_HUB_CACHE": str(cache / "hub"),
            "HF_TOKEN": "hf_fake",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    with FakeHub() as hub:
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        hub, path = self.server, self.path.partition("?")[0]
        hub.requests.append(f"POST {path}")
        if hub.refusal is not None:
            self.answer(hub.refusal, {"error": "you may not write here"})
        elif path == "/api/repos/create":
            hub.created.append(json.loads(body))
            self.answer(200, {"url": f"{hub.address}/org/name"})
        elif path == "/api/validate-yaml":
            self.answer(200, {"errors": [], "warnings": []})
        elif path.startswith("/api/models/org/name/preupload/"):
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            self.answer(200, {"files": files})
        elif path.startswith("/api/models/org/name/commit/"):
            for line in body.splitlines():
                item = json.loads(line)
                if item["key"] == "file":
                    value = item["value"]
                    hub.committed[value["path"]] = base64.b64decode(value["content"])
            self.answer(200, {"commitUrl": f"{hub.address}/org/name/commit/{COMMIT}", "commitOid": COMMIT})
        else:
            self.answer(404, {"error": "not found"})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub, path = self.server, self.path.partition("?")[0]
        hub.requests.append(f"{self.command} {path}")
        name = path.removeprefix(f"/org/name/resolve/{COMMIT}/")
        if hub.refusal is not None:
            self.answer(hub.refusal, {"error": "out of order"})
        elif path in ("/api/models/org/name", "/api/models/org/name/revision/main"):
            siblings = [{"rfilename": file} for file in hub.files]
            self.answer(200, {"id": "org/name", "sha": COMMIT, "siblings": siblings, "private": False})
        elif path == f"/api/models/org/name/tree/{COMMIT}":
            files = [
                {"type": "file", "path": file, "size": len(content), "oid": _oid(content)}
                for file, content in hub.files.items()
            ]
            self.answer(200, files)
        elif name in hub.files:
            content = hub.files[name]
            self.answer(200, content, {"ETag": f'"{_oid(content)}"', "X-Repo-Commit": COMMIT})
        else:
            self.answer(404, {"error": "not found"}, {"X-Error-Code": "RepoNotFound"})

    def answer(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
