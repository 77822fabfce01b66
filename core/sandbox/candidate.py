"""The untrusted side: runs a model's program and answers calls of its functions.

Everything here may be read and changed by the program; the judge at the other end of the channel
believes nothing but the values it is sent. Standard library only.
"""

from __future__ import annotations

import builtins
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from opendllm.core.sandbox.values import decode, encode, is_exact
from opendllm.core.sandbox.wire import Channel, ChannelClosedError

FLUSH_BYTES = 32768
FLUSH_SECONDS = 0.01
"""Results of a stream of calls are sent when so many wait, or so long after the last ones."""
_MUTABLE = (list, dict, set)


def _set_item(target: Any, key: Any, value: Any) -> None:
    target[key] = value


OPERATIONS: dict[str, Callable[..., Any]] = {
    "getattr": getattr,
    "setattr": setattr,
    "getitem": lambda target, key: target[key],
    "setitem": _set_item,
    "contains": lambda target, item: item in target,
    "iter": iter,
    "next": next,
    "len": len,
    "bool": bool,
    "str": str,
    "repr": repr,
}
"""What the judge may do to an object that it holds by its handle, besides calling it."""


class Program:
    """The model's program: its names, and the objects that the judge holds handles of."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._namespace: dict[str, Any] = {}
        self._objects: list[Any] = []

    def serve(self) -> None:
        """Answer the judge until it hangs up."""
        actions: dict[str, Callable[..., Any]] = {
            "load": self._load,
            "names": self._names,
            "call": self._call,
            "do": self._do,
        }
        while True:
            message = self._channel.receive()
            action, content = message
            if action == "stream":
                self._stream(*content)
                continue
            try:
                answer = actions[action](*content)
                self._channel.put(answer)
            except BaseException as error:
                self._channel.put(self._describe(error))
            self._flush()

    def _load(self, source: str) -> Any:
        # An empty namespace, as the published harnesses have it: `__name__` is not `__main__` there.
        exec(compile(source, "<program>", "exec", dont_inherit=True), self._namespace)  # noqa: S102
        return {}

    def _names(self, names: list[str]) -> Any:
        found = {name: self._written(self._namespace[name]) for name in names if name in self._namespace}
        return {"value": found}

    def _call(self, target: Any, arguments: list[Any], keywords: dict[str, Any]) -> Any:
        values = [self._read(argument) for argument in arguments]
        named = {name: self._read(value) for name, value in keywords.items()}
        result = self._read(target)(*values, **named)
        answer = {"value": self._written(result), "exact": is_exact(result)}
        changed = {
            str(index): after
            for index, (value, before) in enumerate(zip(values, arguments, strict=True))
            if isinstance(value, _MUTABLE) and (after := self._written(value)) != before
        }
        return {**answer, "changed": changed} if changed else answer

    def _do(self, operation: str, arguments: list[Any]) -> Any:
        result = OPERATIONS[operation](*[self._read(argument) for argument in arguments])
        return {"value": self._written(result), "exact": is_exact(result)}

    def _stream(self, name: str, inputs: list[Any]) -> None:
        """Call one function with each of many argument lists, an answer to each."""
        function = self._namespace.get(name)
        flushed = time.monotonic()
        for written in inputs:
            try:
                arguments = self._read(written)
                result = function(*arguments)  # type: ignore[misc]
                answer = {"value": self._written(result), "exact": is_exact(result)}
                waiting = self._channel.put(answer)
            except BaseException as error:
                waiting = self._channel.put(self._describe(error))
            now = time.monotonic()
            if waiting > FLUSH_BYTES or now - flushed > FLUSH_SECONDS:
                self._flush()
                flushed = now
        self._flush()

    def _flush(self) -> None:
        self._channel.send_waiting()

    def _read(self, written: Any) -> Any:
        return decode(written, self._objects.__getitem__)

    def _written(self, value: Any) -> Any:
        return encode(value, self._handle)

    def _handle(self, value: Any) -> int:
        self._objects.append(value)
        return len(self._objects) - 1

    @staticmethod
    def _describe(error: BaseException) -> Any:
        """The first built-in class that the exception derives from, and its first words."""
        for kind in type(error).__mro__:
            if getattr(builtins, kind.__name__, None) is kind:
                break
        try:
            text = str(error)[:300]
        except BaseException:
            text = ""
        return {"error": kind.__name__, "text": text.encode("ascii", "replace").decode()}


def run_candidate(channel: Channel) -> None:
    """Serve until the channel closes, and leave without running the program's exit handlers."""
    sys.argv = [""]
    try:
        Program(channel).serve()
    except ChannelClosedError:
        pass
    finally:
        os._exit(0)
