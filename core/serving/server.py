"""Loads what is to be served, listens, and ends when it is asked to."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
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


def serve(
    models: ServedModels,
    listening: Sequence[socket.socket],
    limits: Limits,
    token: str | None,
    on_ready: Callable[[], None],
) -> None:
    """Answer requests until SIGTERM or Ctrl-C; running ones may end in the time of grace.

    Args:
        models: that are served.
        listening: sockets; they are closed.
        limits: of requests.
        token: that clients have to send; None where anybody may ask.
        on_ready: called once requests are answered.
    """
    thread = DecodingThread(limits.rows, limits.waiting)
    only_loopback = token is None
    application = Application(models, thread, limits, token, only_loopback)
    config = uvicorn.Config(
        application.asgi,
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        h11_max_incomplete_event_size=LONGEST_HEADERS,
        timeout_graceful_shutdown=round(limits.grace_seconds) + AFTER_GRACE_SECONDS,
    )
    server = _Server(config, application, thread, limits.grace_seconds, on_ready)
    # uvicorn raises the signals that ended it once more, for who was there before.
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGTERM, signal.SIGINT)}
    thread.start()
    try:
        server.run(list(listening))
    finally:
        thread.stop()
        thread.join()
        for number, handler in before.items():
            signal.signal(number, handler)


class _Server(uvicorn.Server):
    def __init__(
        self,
        config: uvicorn.Config,
        application: Application,
        thread: DecodingThread,
        grace_seconds: float,
        on_ready: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self._application, self._thread = application, thread
        self._grace_seconds, self._on_ready = grace_seconds, on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        await super().startup(sockets)
        self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take nothing more, and let what is running end."""
        self._application.stop()
        grace = asyncio.get_running_loop().call_later(self._grace_seconds, self._thread.stop)
        await super().shutdown(sockets)
        grace.cancel()
