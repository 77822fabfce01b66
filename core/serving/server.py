"""Loads what is to be served, listens, and ends when it is asked to."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from opendllm.core.language_model import LanguageModel, load
from opendllm.core.serving.app import Application
from opendllm.core.serving.decoding_thread import DecodingThread
from opendllm.core.serving.limits import Limits
from opendllm.core.serving.served_models import SERVERS_OWN, ServedModels

LONGEST_HEADERS = 32 << 10
AFTER_GRACE_SECONDS = 5
"""In which those who were told that the server ends can take that in."""


@dataclass(frozen=True)
class Served:
    """What is served, and how it decodes where a request doesn't say.

    Attributes:
        checkpoints: by the name that requests give.
        sampler: None for that of a model's authors, with their options.
        options: the decoder's and the sampler's.
        device: see `load`.
    """

    checkpoints: Mapping[str, Path | str]
    sampler: str | None
    options: Mapping[str, Any]
    device: str


def load_models(served: Served, limits: Limits) -> ServedModels:
    """Load all.

    Raises:
        UserError: see `load`; or a model doesn't go with the options.
    """
    models = {name: load(path, device=served.device) for name, path in served.checkpoints.items()}
    always = {name: value for name, value in served.options.items() if name in SERVERS_OWN}
    asked = {name: value for name, value in served.options.items() if name not in SERVERS_OWN}
    for model in models.values():
        _set_defaults(model, served.sampler, asked)
    return ServedModels(models, always, limits)


def _set_defaults(model: LanguageModel, sampler: str | None, options: Mapping[str, Any]) -> None:
    model.default_sampler, model.default_options = model.decoding(sampler, options)


class HttpServer(uvicorn.Server):
    """Answers requests until SIGTERM or Ctrl-C; running ones may end in the time of grace."""

    def __init__(
        self, models: ServedModels, limits: Limits, token: str | None, on_ready: Callable[[], None]
    ) -> None:
        """Make ready.

        Args:
            models: that are served.
            limits: of requests.
            token: that clients have to send; None where anybody on this machine may ask.
            on_ready: called once requests are answered.
        """
        self._decoding = DecodingThread(limits.rows, limits.waiting)
        self._application = Application(models, self._decoding, limits, token, only_loopback=token is None)
        self._grace_seconds, self._on_ready = limits.grace_seconds, on_ready
        config = uvicorn.Config(
            self._application.asgi,
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            h11_max_incomplete_event_size=LONGEST_HEADERS,
            timeout_graceful_shutdown=round(limits.grace_seconds) + AFTER_GRACE_SECONDS,
        )
        super().__init__(config)

    def answer(self, listening: socket.socket) -> None:
        """Answer what comes to a socket, which is closed in the end."""
        self._decoding.start()
        try:
            with self._stopped_by_signals():
                self.run([listening])
        finally:
            self._decoding.stop()
            self._decoding.join()  # its step may take long: a signal ends that, too

    @contextmanager
    def _stopped_by_signals(self) -> Iterator[None]:
        """Before uvicorn itself listens to them, and after: it then raises once more those that ended it."""
        if threading.current_thread() is not threading.main_thread():
            yield  # signals reach the main thread only
            return
        numbers = (signal.SIGTERM, signal.SIGINT)
        before = {number: signal.signal(number, self.handle_exit) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        await super().startup(sockets)
        self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take nothing more, and let what is running end."""
        self._application.stop()
        grace = asyncio.get_running_loop().call_later(self._grace_seconds, self._decoding.stop)
        await super().shutdown(sockets)
        grace.cancel()
