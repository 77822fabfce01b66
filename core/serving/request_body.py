"""Bodies of requests: of a known kind, in time, and not without end."""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect, Request

from opendllm.core.serving.api_errors import ApiError
from opendllm.core.serving.limits import Limits

DISCARD_SECONDS = 1.0
"""In which the rest of a body that is too large is read."""


class BodyReader:
    """Reads bodies; those that are still coming when the server is stopped aren't waited for."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._reading: set[asyncio.Timeout] = set()

    async def read(self, request: Request) -> bytes:
        """All of a body.

        Raises:
            ApiError: it is no JSON, too large, or doesn't come.
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise ApiError(415, "send JSON, with the header Content-Type: application/json")
        said = request.headers.get("content-length", "0")
        is_too_large = said.isdecimal() and int(said) > self._limits.body_bytes
        body = bytearray()
        timeout = asyncio.timeout(self._limits.body_seconds)
        try:
            async with timeout:
                self._reading.add(timeout)
                async for part in request.stream():
                    is_too_large = is_too_large or len(body) + len(part) > self._limits.body_bytes
                    if is_too_large:
                        # Who is cut off while sending may never read why: so the rest is read, for a while.
                        now = asyncio.get_running_loop().time()
                        timeout.reschedule(min(timeout.when() or now, now + DISCARD_SECONDS))
                        body.clear()
                    else:
                        body += part
        except TimeoutError as error:
            if is_too_large:
                raise self._too_large() from error
            raise ApiError(408, "the request's body didn't come in time") from error
        except ClientDisconnect as error:
            raise ApiError(400, "the request's body ended early") from error
        finally:
            self._reading.discard(timeout)
        if is_too_large:
            raise self._too_large()
        return bytes(body)

    def stop(self) -> None:
        """Wait for no body any more."""
        for timeout in self._reading:
            timeout.reschedule(asyncio.get_running_loop().time())

    def _too_large(self) -> ApiError:
        most = self._limits.body_bytes
        return ApiError(413, f"the request is larger than {most} bytes", "too_large")
