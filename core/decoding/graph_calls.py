"""CUDA graphs of functions that always do the same to the same memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol
from weakref import WeakSet

import torch

from opendllm.core.foundation.notices import warn_once

ONLY_THIS_THREAD = "thread_local"
"""Of a capture's errors: another thread may decode on another GPU meanwhile."""


class Graph(Protocol):
    """What a function did, to be done again."""

    def replay(self) -> None:
        """Do it again, to the same memory."""


class Captures(Protocol):
    """Makes graphs."""

    def capture(self, function: Callable[[], None]) -> Graph:
        """The graph of what a function would do now; nothing of that is done yet."""


class CudaCaptures:
    """CUDA graphs of one model: they share a pool, since nothing in it outlives a replay."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)
        self._graphs: WeakSet[Any] = WeakSet()
        self._pool: Any = None

    def capture(self, function: Callable[[], None]) -> Graph:
        """See `Captures`."""
        if self._pool is None or not self._graphs:  # a pool ends with the last graph in it
            self._pool = torch.cuda.graph_pool_handle()
        graph, current = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            with torch.cuda.graph(
                graph, pool=self._pool, stream=self._stream, capture_error_mode=ONLY_THIS_THREAD
            ):
                function()
        except Exception:
            torch.cuda.set_stream(current)  # a capture that fails in its end doesn't
            torch.cuda.synchronize()
            # Stream and pool take themselves to be captured still.
            self._stream, self._pool = torch.cuda.Stream(self._stream.device), None
            raise
        self._graphs.add(graph)
        return graph


def captures_on(device: torch.device) -> Captures | None:
    """What makes graphs on a device; None where nothing does."""
    return CudaCaptures(device) if device.type == "cuda" else None


@dataclass
class GraphTiming:
    """What graphs have cost so far.

    Attributes:
        shapes: canvases of how many shapes they were made for.
        graphs: how many were captured.
        capture_seconds: that took.
    """

    shapes: int = 0
    graphs: int = 0
    capture_seconds: float = 0.0

    @staticmethod
    def summed(parts: Iterable[GraphTiming]) -> GraphTiming:
        """All of them together."""
        found = GraphTiming()
        for part in parts:
            found.shapes += part.shapes
            found.graphs += part.graphs
            found.capture_seconds += part.capture_seconds
        return found

    def __str__(self) -> str:
        shapes = f"{self.shapes} shape{'s' if self.shapes > 1 else ''}"
        return f"{self.graphs} CUDA graphs for canvases of {shapes} captured in {self.capture_seconds:.1f} s"


class GraphCalls:
    """Calls functions without arguments, from the second time on as graphs: without their launches.

    A function writes its results into tensors that stay where they are, reads nothing else that moves, and
    doesn't wait for the GPU. One that does (a stranger's sampler may) is called as it is. So are all of them
    where nothing captures.
    """

    def __init__(
        self, captures: Captures | None, timing: GraphTiming, make_room: Callable[[], bool] = lambda: False
    ) -> None:
        """Begin without a graph.

        Args:
            captures: makes the graphs; None for none.
            timing: counts them.
            make_room: called where memory is short, before another attempt; gives whether that has a chance.
        """
        self._captures = captures
        self._timing = timing
        self._make_room = make_room
        self._graphs: dict[Hashable, Graph] = {}
        self._called: set[Hashable] = set()
        self._as_they_are: set[Hashable] = set()

    def was_refused(self, key: tuple[Hashable, ...]) -> bool:
        """Whether a function couldn't be captured, so that it is called as it is."""
        return key in self._as_they_are

    def __call__(self, key: tuple[Hashable, ...], function: Callable[[], None]) -> None:
        """Call a function.

        Args:
            key: what is done, its name first; the same one for the same function, shapes and memory.
            function: called if there is no graph of it yet. Where memory is short it is called again.
        """
        if self._captures is None or key in self._as_they_are:
            self._with_room(function)
        elif key in self._graphs:
            self._graphs[key].replay()
        elif key not in self._called:
            self._called.add(key)  # a first call allocates and compiles, which no capture may
            self._with_room(function)
        elif (graph := self._captured(self._captures, key, function)) is not None:
            self._graphs[key] = graph
            graph.replay()
        else:
            self._as_they_are.add(key)
            self._with_room(function)

    def _with_room(self, function: Callable[[], None]) -> None:
        try:
            function()
        except torch.OutOfMemoryError:
            if not self._make_room():
                raise
            function()

    def _captured(
        self, captures: Captures, key: tuple[Hashable, ...], function: Callable[[], None]
    ) -> Graph | None:
        began, found = time.perf_counter(), []
        try:
            self._with_room(lambda: found.append(captures.capture(function)))
        except Exception as error:  # whatever it was, called as it is the function says so again
            said = str(error).strip().splitlines() or [type(error).__name__]
            warn_once(f"decoding: a step's {key[0]} is not replayed as a CUDA graph: {said[0]}")
            return None
        self._timing.graphs += 1
        self._timing.capture_seconds += time.perf_counter() - began
        return found[0]
