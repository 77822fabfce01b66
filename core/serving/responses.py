"""Answers as HTTP has them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from opendllm.core.serving.api_answers import as_bytes
from opendllm.core.serving.api_errors import ApiError

RETRY_AFTER_SECONDS = 1
_HEADERS = {"cache-control": "no-store", "x-content-type-options": "nosniff"}


def json_response(content: Mapping[str, Any], status: int = 200) -> Response:
    """An object."""
    return Response(as_bytes(content), status, _HEADERS, "application/json")


def error_response(error: ApiError) -> Response:
    """An error; after some a client knows what to do."""
    response = json_response(error.content(), error.status)
    if error.status in (429, 503):
        response.headers["retry-after"] = str(RETRY_AFTER_SECONDS)
    if error.status == 401:
        response.headers["www-authenticate"] = "Bearer"
    if error.status in (408, 413):
        response.headers["connection"] = "close"  # the rest of the body isn't read
    return response


class EventStream(StreamingResponse):
    """Server-sent events; `on_end` is called however the stream ends, also where the client goes away."""

    def __init__(self, events: AsyncGenerator[bytes, None], on_end: Callable[[], None]) -> None:
        super().__init__(events, headers=_HEADERS, media_type="text/event-stream")
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._on_end()
