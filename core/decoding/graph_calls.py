"""CUDA graphs of functions that always do the same to the same memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from typing import Any

import torch

from opendllm.core.foundation.notices import warn_once

ONLY_THIS_THREAD = "thread_local"
"""Of a capture's errors: another thread may decode on another GPU meanwhile."""


class GraphCalls:
    """Calls functions without arguments, from the second time on as CUDA graphs: without their launches.

    A function writes its results into tensors that stay where they are, reads nothing else that moves, and
    doesn't wait for the GPU. One that does (a stranger's sampler may) is called as it is. On a CPU all are.

    Attributes:
        capture_seconds: spent on captures so far.
    """

    def __init__(self, device: torch.device) -> None:
        self._graphs: dict[Hashable, Any] = {}
        self._called: set[Hashable] = set()
        self._as_they_are: set[Hashable] = set()
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._pool: Any = None
        self.capture_seconds = 0.0

    def __call__(self, key: tuple[Hashable, ...], function: Callable[[], None]) -> None:
        """Call a function.

        Args:
            key: what is done, its name first; the same one for the same function, shapes and memory.
            function: called if there is no graph of it yet.
        """
        if self._stream is None or key in self._as_they_are:
            function()
        elif key in self._graphs:
            self._graphs[key].replay()
        elif key not in self._called:
            self._called.add(key)  # a first call allocates and compiles, which no capture may
            function()
        elif (graph := self._capture(key, function)) is not None:
            self._graphs[key] = graph
            graph.replay()
        else:
            self._as_they_are.add(key)
            function()

    def _capture(self, key: tuple[Hashable, ...], function: Callable[[], None]) -> Any:
        graph, began = torch.cuda.CUDAGraph(), time.perf_counter()
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        try:
            with torch.cuda.graph(
                graph, pool=self._pool, stream=self._stream, capture_error_mode=ONLY_THIS_THREAD
            ):
                function()
        except Exception as error:  # whatever it was, called as it is the function says so again
            torch.cuda.synchronize()
            warn_once(
                f"decoding: a step's {key[0]} is not replayed as a CUDA graph: {str(error).splitlines()[0]}"
            )
            return None
        self.capture_seconds += time.perf_counter() - began
        return graph
