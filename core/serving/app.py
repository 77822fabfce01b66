"""The routes, and how a request becomes an answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from opendllm.core.reporting.server_page import render_server_page
from opendllm.core.serving.api_answers import DONE, AnswerForm, Usage, server_sent
from opendllm.core.serving.api_errors import ApiError
from opendllm.core.serving.api_fields import (
    ChatFields,
    CompletionFields,
    DenoisingFields,
    StreamedFields,
    fields_of,
)
from opendllm.core.serving.asked_rows import Finished, Piece
from opendllm.core.serving.decoding_thread import DecodingThread
from opendllm.core.serving.denoising import denoising_events
from opendllm.core.serving.events import Events
from opendllm.core.serving.guards import Guard
from opendllm.core.serving.limits import Limits
from opendllm.core.serving.request_body import BodyReader
from opendllm.core.serving.responses import EventStream, error_response, json_response
from opendllm.core.serving.served_models import Asked, Delivery, ServedModels
from opendllm.core.serving.settled_text import Ending
from opendllm.registries.gaps import Gap

OWNER = "open-dllm"
PAGE_HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class Application:
    """Answers requests.

    Attributes:
        asgi: for a server.
    """

    def __init__(
        self,
        models: ServedModels,
        thread: DecodingThread,
        limits: Limits,
        token: str | None,
        only_loopback: bool,
    ) -> None:
        """Make it ready.

        Args:
            models: that are served.
            thread: that decodes.
            limits: of requests.
            token: see `Guard`.
            only_loopback: see `Guard`.
        """
        self._models, self._thread = models, thread
        self._bodies = BodyReader(limits)
        # Tokenizers and templates take their time. One thread encodes, which sets a flag of the tokenizer;
        # the decoding thread only turns ids into text with it, which the flag has no part in.
        self._preparing = ThreadPoolExecutor(1, thread_name_prefix="preparing")
        self._described = cache(models.describe)
        self._page = render_server_page()
        routes = Starlette(
            routes=[
                Route("/", self._show_page),
                Route("/health", self._health),
                Route("/v1/models", self._list_models),
                Route("/v1/models/{name:path}", self._describe_model),
                Route("/v1/completions", self._complete, methods=["POST"]),
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
                Route("/denoise", self._denoise, methods=["POST"]),
            ],
            exception_handlers={ApiError: _refuse, HTTPException: _refuse_route, Exception: _fail},
        )
        self.asgi = Guard(routes, token, only_loopback)

    def stop(self) -> None:
        """Take nothing more; what is running goes on."""
        self._bodies.stop()

    async def _show_page(self, request: Request) -> Response:
        return Response(self._page, headers=PAGE_HEADERS, media_type="text/html")

    async def _health(self, request: Request) -> Response:
        is_well = self._thread.is_alive
        return json_response({"status": "ok" if is_well else "stopped"}, 200 if is_well else 503)

    async def _list_models(self, request: Request) -> Response:
        data = [self._model(name) for name in self._models.names]
        return json_response({"object": "list", "data": data})

    async def _describe_model(self, request: Request) -> Response:
        return json_response(self._model(request.path_params["name"]))

    def _model(self, name: str) -> dict[str, Any]:
        self._models.model(name)
        return {"id": name, "object": "model", "created": 0, "owned_by": OWNER, **self._described(name)}

    async def _complete(self, request: Request) -> Response:
        fields = fields_of(await self._bodies.read(request), CompletionFields)
        gaps = [Gap(prompt, fields.suffix) for prompt in fields.prompts]
        events = Events()
        delivery = Delivery(events.tell, streams=bool(fields.stream))
        asked = await self._prepared(lambda: self._models.ask(fields, gaps, fields.max_tokens, delivery))
        echoes = [gap.prefix for gap in gaps for _ in range(fields.n or 1)] if fields.echo else []
        form = AnswerForm(fields.model, asked.seed, False, echoes, fields.streams_usage)
        return await self._answer(request, fields, asked, events, form)

    async def _chat(self, request: Request) -> Response:
        fields = fields_of(await self._bodies.read(request), ChatFields)
        events = Events()
        delivery = Delivery(events.tell, streams=bool(fields.stream))
        most = fields.max_tokens if fields.max_completion_tokens is None else fields.max_completion_tokens

        def prepare() -> Asked:
            gap = self._models.chat_gap(fields.model, fields.messages)
            return self._models.ask(fields, [gap], most, delivery)

        asked = await self._prepared(prepare)
        form = AnswerForm(fields.model, asked.seed, True, counts_usage=fields.streams_usage)
        return await self._answer(request, fields, asked, events, form)

    async def _denoise(self, request: Request) -> Response:
        fields = fields_of(await self._bodies.read(request), DenoisingFields)
        events = Events()
        delivery = Delivery(events.tell, shows_canvases=True)
        gap = Gap(fields.prompt, fields.suffix)
        asked = await self._prepared(lambda: self._models.ask(fields, [gap], fields.max_tokens, delivery))
        sampler, options = self._models.decoding(fields)
        self._thread.submit(asked.rows)
        stream = denoising_events(gap, asked, events, sampler, options)
        return EventStream(stream, lambda: _cancel(asked))

    async def _prepared(self, prepare: Callable[[], Asked]) -> Asked:
        return await asyncio.get_running_loop().run_in_executor(self._preparing, prepare)

    async def _answer(
        self, request: Request, fields: StreamedFields, asked: Asked, events: Events, form: AnswerForm
    ) -> Response:
        self._thread.submit(asked.rows)
        if fields.stream:
            return EventStream(_chunks(asked, events, form), lambda: _cancel(asked))
        try:
            endings = await _unless_gone(request, _endings(len(asked.rows), events))
        finally:
            _cancel(asked)
        return json_response(form.whole(endings, asked.prompt_tokens))


async def _endings(rows: int, events: Events) -> Sequence[Ending]:
    """Of all rows.

    Raises:
        ApiError: one failed.
    """
    found: dict[int, Ending] = {}
    while len(found) < rows:
        index, event = await events.next()
        if isinstance(event, ApiError):
            raise event
        if isinstance(event, Finished):
            found[index] = event.ending
    return [found[index] for index in range(rows)]


async def _unless_gone(request: Request, answer: Awaitable[Sequence[Ending]]) -> Sequence[Ending]:
    """The answer, while its client is there.

    Raises:
        ApiError: the client went away.
    """
    answering = asyncio.ensure_future(answer)
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not answering.done():
            raise ApiError(499, "the client went away")
        return answering.result()
    finally:
        answering.cancel()
        leaving.cancel()


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _chunks(asked: Asked, events: Events, form: AnswerForm) -> AsyncGenerator[bytes, None]:
    """Text as it settles, choice by choice as it comes."""
    for index in range(len(asked.rows)):
        opening = form.opening(index)
        if opening is not None:
            yield server_sent(opening)
    left, written = len(asked.rows), 0
    while left:
        index, event = await events.next()
        if isinstance(event, Piece):
            yield server_sent(form.piece(index, event.text))
        elif isinstance(event, Finished):
            left, written = left - 1, written + event.ending.tokens
            yield server_sent(form.ending(index, event.ending.reason))
        elif isinstance(event, ApiError):
            yield server_sent(event.content())
            return
    if form.counts_usage:
        yield server_sent(form.usage(Usage(asked.prompt_tokens, written)))
    yield DONE


def _cancel(asked: Asked) -> None:
    for row in asked.rows:
        row.is_cancelled = True


def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error_response(error)


def _refuse_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    asked = f"{request.method} {request.url.path[:200]}"
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "POST").replace("HEAD, ", "").replace(", HEAD", "")
        return error_response(ApiError(405, f"{asked}: send it as {allowed}"))
    message = f"{asked} is nothing here: ask for /v1/completions, /v1/chat/completions or /v1/models"
    return error_response(ApiError(error.status_code, message))


def _fail(request: Request, error: Exception) -> Response:
    return error_response(ApiError(500, f"internal error: {type(error).__name__}"))
