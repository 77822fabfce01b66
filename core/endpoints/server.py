"""One server, asked over HTTP: bounded in time and size, and again where that makes sense."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar
from urllib.parse import urlsplit

from opendllm.core.endpoints.faults import Quote, ServerError, fault_of_status, json_of
from opendllm.core.foundation.loopback import is_loopback
from opendllm.core.foundation.notices import warn_once
from opendllm.core.manifest.endpoint_schema import Endpoint
from opendllm.registries.errors import UserError, first_line

if TYPE_CHECKING:
    import anyio
    import httpx2

LARGEST_ANSWER = 16 << 20
"""Bytes of a response that are read."""
ReadT = TypeVar("ReadT")


def token_of(endpoint: Endpoint) -> str | None:
    """The token, out of the environment.

    Raises:
        UserError: there is none, or what is there can't be one.
    """
    name = endpoint.token_env
    if name is None:
        return None
    token = os.environ.get(name, "").strip()
    if not token:
        raise UserError(
            f"the environment variable {name}, which is to hold the token of {endpoint.called}, is not set"
        )
    if not token.isascii() or not token.isprintable() or " " in token:
        raise UserError(f"the environment variable {name} holds a space or a character that no token has")
    return token


class Server:
    """An endpoint while it is asked.

    Attributes:
        endpoint: what the manifest says of it.
        quote: see `Quote`.
    """

    def __init__(self, endpoint: Endpoint, token: str | None) -> None:
        self.endpoint = endpoint
        self.quote = Quote(token)
        self._ends = False
        self._pauses: set[anyio.CancelScope] = set()
        headers = {"Accept-Encoding": "identity", "Content-Type": "application/json"}
        self._client = _client(
            endpoint, headers if token is None else {**headers, "Authorization": f"Bearer {token}"}
        )

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.__aexit__(kind, error, trace)

    async def get(self, path: str) -> Any:
        """What lies at a path of the API, as JSON; None where that is something else, a page say.

        Raises:
            ServerError: see `ask`.
        """

        async def once() -> Any:
            try:
                return await self._once("GET", path, None, lambda content: content)
            except ServerError as error:
                if error.kind != "malformed":
                    raise
                return None

        return await self._again(once)

    async def ask(self, path: str, body: Mapping[str, Any], read: Callable[[Any], ReadT]) -> ReadT:
        """What is made of the answer to a request.

        Args:
            path: of the API, as in `/completions`.
            body: the request's.
            read: makes something of the answer's JSON; raises a ServerError where it is none.

        Raises:
            ServerError: there is no answer, however often it is asked for.
        """
        return await self._again(lambda: self._once("POST", path, body, read))

    def ask_no_more(self) -> None:
        """What has been sent may be answered; nothing is sent again, and nobody waits to."""
        self._ends = True
        for pause in self._pauses:
            pause.cancel()

    async def _again(self, once: Callable[[], Awaitable[ReadT]]) -> ReadT:
        """A request until it is answered, or may not be sent any more.

        The delay doubles from try to try, and a random share of it, up to half, is left out: so requests that
        failed together don't come back together.
        """
        import anyio

        retries, tries = self.endpoint.retries, 0
        while True:
            tries += 1
            try:
                return await once()
            except ServerError as fault:
                if self._ends or fault.too_long or fault.kind not in retries.after:
                    raise
                after = fault.retry_after or 0.0
                if after > retries.longest_delay:
                    longest = f"retries.longest_delay of {retries.longest_delay:g}"
                    raise ServerError(
                        fault.kind, f"{fault}, for {after:.0f} s, which is more than {longest}"
                    ) from fault
                if tries == retries.attempts:
                    raise ServerError(
                        fault.kind, f"{fault}, {tries} times in a row" if tries > 1 else str(fault)
                    ) from fault
                if fault.kind == "connection":  # a wrong port, most often: no need to wait for the last try
                    warn_once(
                        f"{self.endpoint.called} {fault}; it is asked up to {retries.attempts} times: is it "
                        f"started, and the URL right?"
                    )
                last = fault
            delay = min(retries.longest_delay, retries.first_delay * 2.0 ** min(tries - 1, 60))
            with anyio.CancelScope() as pause:
                self._pauses.add(pause)
                await anyio.sleep(max(after, delay * random.uniform(0.5, 1.0)))  # noqa: S311 (no secret)
            self._pauses.discard(pause)
            if self._ends:
                raise last

    async def _once(
        self, method: str, path: str, body: Mapping[str, Any] | None, read: Callable[[Any], ReadT]
    ) -> ReadT:
        import anyio
        import httpx2

        content = None if body is None else json.dumps(body).encode()
        seconds = self.endpoint.timeout
        try:
            with anyio.fail_after(seconds):
                async with self._client.stream(
                    method, self.endpoint.base_url + path, content=content
                ) as response:
                    found = await _bounded(response)
        except TimeoutError:
            raise ServerError("timeout", f"doesn't answer within {seconds:g} s") from None
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, UnicodeError) as error:  # of a host's name, too
            raise ServerError("connection", self._unreached(error)) from error
        if not 200 <= response.status_code < 300:
            raise fault_of_status(response.status_code, response.headers, found, self.quote)
        return read(json_of(found, self.quote))

    def _unreached(self, error: Exception) -> str:
        import httpx2

        through = " (through the proxy that the environment names)" if _proxied(self.endpoint) else ""
        why = self.quote(first_line(error)).rstrip(".")
        if isinstance(error, httpx2.ConnectError | httpx2.InvalidURL | UnicodeError):
            return f"cannot be reached{through}: {why}"
        return f"breaks off{through}: {why}"


async def _bounded(response: httpx2.Response) -> bytes:
    """The whole body, as long as it is one that can be an answer.

    Raises:
        ServerError: it goes on and on.
    """
    parts, size = [], 0
    async for part in response.aiter_raw():
        parts.append(part)
        size += len(part)
        if size > LARGEST_ANSWER:
            raise ServerError("malformed", f"answers more than {LARGEST_ANSWER >> 20} MiB")
    return b"".join(parts)


def _client(endpoint: Endpoint, headers: Mapping[str, str]) -> httpx2.AsyncClient:
    """Follows no redirect, unpacks nothing, and takes proxies and certificates from the environment, as curl
    does; but this machine's own addresses are asked without a proxy.

    Raises:
        UserError: the environment's proxy, or its certificates, are none that the client knows.
    """
    import httpx2

    limits = httpx2.Limits(
        max_connections=endpoint.concurrency, max_keepalive_connections=endpoint.concurrency
    )
    try:
        return httpx2.AsyncClient(
            headers=dict(headers), timeout=None, limits=limits, trust_env=not is_here(endpoint)
        )
    except (ImportError, ValueError, OSError, httpx2.InvalidURL) as error:
        raise UserError(
            f"the proxy or certificates that the environment names can't be used: {type(error).__name__}"
        ) from error


def is_here(endpoint: Endpoint) -> bool:
    """Whether the server is on this machine."""
    return is_loopback(urlsplit(endpoint.endpoint).hostname or "")


def _proxied(endpoint: Endpoint) -> bool:
    from urllib.request import getproxies, proxy_bypass

    parts = urlsplit(endpoint.endpoint)
    found = getproxies()
    named = found.get(parts.scheme) or found.get("all")
    return bool(named) and not is_here(endpoint) and not proxy_bypass(parts.hostname or "")
