"""Bodies of requests: of a known kind, in time, and not without end."""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect, Request

from opendllm.core.serving.api_errors import ApiError
from opendllm.core.serving.limits import Limits


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
        most = self._limits.body_bytes
        said = request.headers.get("content-length", "0")
        if said.isdecimal() and int(said) > most:
            raise _too_large(most)
        body = bytearray()
        timeout = asyncio.timeout(self._limits.body_seconds)
        try:
            async with timeout:
                self._reading.add(timeout)
                async for part in request.stream():
                    body += part
                    if len(body) > most:
                        raise _too_large(most)
        except TimeoutError as error:
            raise ApiError(408, "the request's body didn't come in time") from error
        except ClientDisconnect as error:
            raise ApiError(400, "the request's body ended early") from error
        finally:
            self._reading.discard(timeout)
        return bytes(body)

    def stop(self) -> None:
        """Wait for no body any more."""
        for timeout in self._reading:
            timeout.reschedule(asyncio.get_running_loop().time())


def _too_large(most: int) -> ApiError:
    return ApiError(413, f"the request is larger than {most} bytes", "too_large")
