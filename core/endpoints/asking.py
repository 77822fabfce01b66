"""Many requests to one server at once, from code that waits for one answer after the other."""

from __future__ import annotations

import json
import queue
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from opendllm.core.endpoints.completions import (
    ApiRequest,
    ServedText,
    read_models,
    read_prompt_tokens,
    read_text,
)
from opendllm.core.endpoints.faults import Quote, ServerError
from opendllm.core.endpoints.server import Server, is_here, token_of
from opendllm.core.foundation.notices import warn_once
from opendllm.core.manifest.endpoint_schema import Endpoint
from opendllm.registries.errors import UserError
from opendllm.registries.suggestions import did_you_mean

KeyT = TypeVar("KeyT")


@dataclass
class Known:
    """What asking a server has brought to light.

    Attributes:
        models: the names that it serves; None where it has not been asked, or doesn't say.
        asked: whether it has been.
        reads_suffixes: whether it has shown, or wasn't found out not to.
        suffixes_unclear: whether it takes suffixes and doesn't count tokens, so that it may ignore them.
        takes: requests with a short text that it doesn't refuse as too long.
    """

    models: tuple[str, ...] | None = None
    asked: bool = False
    reads_suffixes: bool = False
    suffixes_unclear: bool = False
    takes: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Refused:
    """A request that is too long for the server's model."""

    reason: str


@dataclass
class Asking(Generic[KeyT]):
    """Requests on their way, `endpoint.concurrency` at once.

    Attributes:
        endpoint: who is asked.
        requests: by key, in the order that they are sent.
        known: what is known of the server already; is added to.
    """

    endpoint: Endpoint
    requests: Mapping[KeyT, ApiRequest]
    known: Known
    _found: queue.SimpleQueue[tuple[KeyT, ServedText | Refused] | Exception | None] = field(
        default_factory=queue.SimpleQueue
    )

    def answers(self) -> Iterator[tuple[KeyT, ServedText | Refused]]:
        """As they come. Left early, what is on its way is given up.

        Raises:
            UserError: a request has no answer, for a reason that isn't its own.
        """
        if not self.requests:
            return
        try:
            import httpx2  # noqa: F401 (looked for here, used by `Server`)
            from anyio.from_thread import start_blocking_portal
        except ImportError:
            raise UserError("asking a server needs httpx2: pip install 'open-dllm[serve]'") from None
        token = token_of(self.endpoint)
        if token is not None and self.endpoint.base_url.startswith("http:") and not is_here(self.endpoint):
            warn_once(
                f"the token for {self.endpoint.called} goes there unencrypted, since its URL is no https"
            )
        with start_blocking_portal() as portal:
            work = portal.start_task_soon(self._ask, token)
            work.add_done_callback(lambda done: self._found.put(None))
            failed: Exception | None = None
            try:
                while (found := self._found.get()) is not None:
                    if isinstance(found, Exception):
                        failed = failed or found  # what came in beside it is kept
                    else:
                        yield found
                work.result()
                if failed is not None:
                    raise failed
            finally:
                work.cancel()

    async def _ask(self, token: str | None) -> None:
        import anyio

        async with Server(self.endpoint, token) as server, anyio.create_task_group() as group:
            try:
                await self._find_out(server)
            except Exception as error:
                self._found.put(self._told(error, server.quote))
                return
            waiting = list(self.requests.items())[::-1]

            async def work() -> None:
                while waiting:
                    key, request = waiting.pop()
                    try:
                        self._found.put((key, await self._text(server, request)))
                    except Exception as error:
                        # What is under way may be answered, and is kept: it has been paid for.
                        waiting.clear()
                        server.ask_no_more()
                        self._found.put(self._told(error, server.quote))

            for _ in range(min(self.endpoint.concurrency, len(self.requests))):
                group.start_soon(work)

    async def _text(self, server: Server, request: ApiRequest) -> ServedText | Refused:
        try:
            return await server.ask(request.path, request.body, read_text)
        except ServerError as fault:
            if fault.too_long:
                await self._check_short(server, request)
                return Refused(str(fault))
            raise

    async def _check_short(self, server: Server, request: ApiRequest) -> None:
        """Where all are refused, for their `max_tokens` say, no prompt is at fault.

        Raises:
            ServerError: the same is refused with a short text.
        """
        short = request.with_short_text
        name = json.dumps([short.path, short.body])
        if name in self.known.takes:
            return
        try:
            await server.ask(short.path, short.body, read_text)
        except ServerError as fault:
            if not fault.too_long:
                raise
            raise ServerError(
                fault.kind, f"refuses a prompt of a few tokens, too: {fault}: see generate and extra_body"
            ) from fault
        self.known.takes.add(name)

    async def _find_out(self, server: Server) -> None:
        """Once: which models are served, and, before the first infilling, whether suffixes are read.

        Raises:
            ServerError: the server can't be reached, or wants another token.
            UserError: it doesn't read suffixes.
        """
        if not self.known.asked:
            try:
                self.known.models = read_models(await server.get("/models"))
            except ServerError as fault:
                if fault.kind in ("connection", "timeout", 401, 403):
                    raise
            self.known.asked = True
        infilling = next((request for request in self.requests.values() if request.suffix), None)
        if infilling is not None and not self.known.reads_suffixes:
            await self._check_suffix(server, infilling)
            self.known.reads_suffixes = True

    async def _check_suffix(self, server: Server, request: ApiRequest) -> None:
        """A server that counts as many tokens with a suffix as without hasn't read it.

        Raises:
            UserError: so it is.
        """
        without = {**request.body, "prompt": "def add(a, b):\n", "max_tokens": 1}
        del without["suffix"]
        body = {**without, "suffix": "\n    return total\n"}
        read = [await server.ask(request.path, each, read_prompt_tokens) for each in (body, without)]
        self.known.suffixes_unclear = None in read
        if read[0] is not None and read[0] == read[1]:
            raise UserError(
                f"{self.endpoint.called} takes a `suffix` and doesn't read it (it counts {read[0]} tokens "
                f"with and without): infilling needs a server that does"
            )

    def _told(self, error: Exception, quote: Quote) -> Exception:
        """A fault as the user hears of it."""
        if not isinstance(error, ServerError):
            return error
        names = self.known.models or ()
        unknown = error.kind in (400, 404) and names and self.endpoint.model not in names
        hint = f"; of its models, {quote(did_you_mean(self.endpoint.model, list(names)))}" if unknown else ""
        return UserError(
            f"{self.endpoint.called} {error}{hint}; what was answered is kept: the same command goes on from "
            f"there"
        )
