"""Length-prefixed JSON over a socket, with descriptors beside it. Standard library only."""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Sequence
from typing import Any

FRAME_BYTES = 128 * 2**20
"""The longest message that is read."""
_LENGTH = struct.Struct("!I")


class ChannelClosedError(Exception):
    """The other side is gone."""


class ChannelTimeoutError(Exception):
    """The other side didn't answer in time."""


class Channel:
    """One end of a stream socket."""

    def __init__(self, stream: socket.socket, takes_descriptors: bool = False) -> None:
        """Wrap a socket.

        Args:
            stream: connected.
            takes_descriptors: whether copies of descriptors are received; else the kernel drops them, so
                that the other side can't use up this process's own.
        """
        self._stream = stream
        self._takes_descriptors = takes_descriptors
        self._received = bytearray()
        self._unsent = bytearray()
        self.descriptors: list[int] = []
        """Received, and not yet taken by the reader."""

    def fileno(self) -> int:
        """The descriptor, for polling."""
        return self._stream.fileno()

    @property
    def has_more(self) -> bool:
        """Whether something was received that no `receive` has returned yet."""
        return bool(self._received)

    def close(self) -> None:
        """Close this end."""
        self._stream.close()

    def send(self, message: Any, descriptors: Sequence[int] = ()) -> None:
        """Send a message, and all that `put` left, with copies of descriptors.

        Raises:
            ChannelClosedError: nobody reads it.
            OSError: the kernel can't take it: too many descriptors are under way, say.
        """
        self.put(message)
        self.send_waiting(descriptors)

    def send_waiting(self, descriptors: Sequence[int] = ()) -> None:
        """Send what `put` left."""
        data, self._unsent = self._unsent, bytearray()
        self._stream.settimeout(None)
        try:
            if descriptors:
                sent = socket.send_fds(self._stream, [data], list(descriptors))
                del data[:sent]
            self._stream.sendall(data)
        except ConnectionError as error:
            raise ChannelClosedError(str(error)) from None

    def put(self, message: Any) -> int:
        """Append a message to those that wait to be sent; returns the bytes that wait."""
        text = json.dumps(message, separators=(",", ":")).encode("ascii")
        self._unsent += _LENGTH.pack(len(text))
        self._unsent += text
        return len(self._unsent)

    def receive(self, deadline: float | None = None) -> Any:
        """The next message.

        Args:
            deadline: on `time.monotonic()`'s clock; None waits for ever.

        Raises:
            ChannelTimeoutError: it didn't come in time.
            ChannelClosedError: the other side is gone, or what it sent is no message.
        """
        size = _LENGTH.unpack(self._take(_LENGTH.size, deadline))[0]
        if size > FRAME_BYTES:
            raise ChannelClosedError(f"a message of {size} bytes")
        try:
            return json.loads(self._take(size, deadline))
        except (ValueError, RecursionError) as error:
            raise ChannelClosedError(f"no message: {error}") from None

    def _take(self, size: int, deadline: float | None) -> bytes:
        while len(self._received) < size:
            self._stream.settimeout(None if deadline is None else max(0.0001, deadline - time.monotonic()))
            try:
                data = self._received_data()
            except TimeoutError:
                raise ChannelTimeoutError from None
            except OSError as error:
                raise ChannelClosedError(str(error)) from None
            if not data:
                raise ChannelClosedError("end of file")
            self._received += data
        taken = bytes(self._received[:size])
        del self._received[:size]
        return taken

    def _received_data(self) -> bytes:
        if not self._takes_descriptors:
            return self._stream.recv(1 << 20)
        data, descriptors, _, _ = socket.recv_fds(self._stream, 1 << 20, 8)
        self.descriptors += descriptors
        return data


def channel_pair() -> tuple[Channel, socket.socket]:
    """A channel and the socket at its other end."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    return Channel(here), there
