"""Who may ask at all: looked at before a request's body is read."""

from __future__ import annotations

import secrets
from urllib.parse import SplitResult, urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from opendllm.core.foundation.loopback import is_loopback
from opendllm.core.serving.api_errors import ApiError
from opendllm.core.serving.responses import error_response

OPEN_PATHS = frozenset({"/", "/health"})
"""They tell nothing of models and texts, and need no token: a browser has none yet when it opens the page."""


class Guard:
    """Refuses who has no token, and pages of other sites.

    A site that lets its own name mean this machine (DNS rebinding) asks with that name in `Host`; one that
    just asks from a visitor's browser has its own `Origin`.
    """

    def __init__(self, app: ASGIApp, token: str | None, only_loopback: bool) -> None:
        """Guard an application.

        Args:
            app: it.
            token: that clients send as `Authorization: Bearer`; None where anybody may ask.
            only_loopback: whether the server listens on this machine's loopback alone.
        """
        self._app, self._only_loopback = app, only_loopback
        self._token = None if token is None else token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "http":
            try:
                self._check(Headers(scope=scope), scope["path"])
            except ApiError as error:
                await error_response(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _check(self, headers: Headers, path: str) -> None:
        host = headers.get("host", "")
        name = _split(f"//{host}", "Host").hostname or ""
        if self._only_loopback and not is_loopback(name):
            raise ApiError(403, "this server answers to localhost: ask for it by that name", "host")
        origin = headers.get("origin")
        if origin is not None and _split(origin, "Origin").netloc != host:
            raise ApiError(403, "pages of other sites may not ask here", "origin")
        if self._token is None or path in OPEN_PATHS:
            return
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not secrets.compare_digest(given.strip().encode(), self._token):
            raise ApiError(401, "this server wants a token: Authorization: Bearer TOKEN", "invalid_api_key")


def _split(url: str, header: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:  # a bracket without another
        raise ApiError(403, f"the header {header} is malformed", header.lower()) from None
