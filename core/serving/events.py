"""The events of a request's rows, on their way from the decoding thread to who waits for them."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from opendllm.core.serving.asked_rows import Event


class Events:
    """Made in the event loop of who waits."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()

    def tell(self, index: int, event: Event) -> None:
        """Tell an event of the row of that number, from any thread."""
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            self._loop.call_soon_threadsafe(self._queue.put_nowait, (index, event))

    async def next(self) -> tuple[int, Event]:
        """The next one."""
        return await self._queue.get()
