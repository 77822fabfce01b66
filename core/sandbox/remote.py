"""The judge's view of a candidate: calls that cross the channel and come back as plain values.

Standard library only.
"""

from __future__ import annotations

import builtins
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

from opendllm.core.sandbox.values import decode, encode
from opendllm.core.sandbox.wire import Channel, ChannelClosedError, ChannelTimeoutError


class CandidateLost(BaseException):
    """The candidate is dead, late or talks nonsense; no test may catch this."""


class CandidateError(Exception):
    """The candidate raised an exception that has no built-in class to be raised as here."""


class Candidate:
    """A program in another process.

    Attributes:
        lost: why it can't be talked to any more, or None. A trial that lost its candidate is failed,
            whatever the tests made of it.
    """

    def __init__(
        self, channel: Channel, program: str, seconds: float, on_limit: Callable[[float], None]
    ) -> None:
        self._channel = channel
        self._program = program
        self._on_limit = on_limit
        self._deadline = time.monotonic() + seconds
        self.lost: str | None = None

    def limit(self, seconds: float) -> None:
        """From now on the candidate has so many seconds, in place of what it had."""
        self._deadline = time.monotonic() + seconds
        self._on_limit(seconds)

    def load(self) -> None:
        """Run the program's text; its functions can be called then.

        Raises:
            Exception: what it raised, by its built-in class.
            CandidateLost: it died or took too long.
        """
        self._ask("load", self._program)

    def names(self, names: Sequence[str]) -> dict[str, Any]:
        """Those of the names that the program defines: plain values, and `Remote` objects."""
        found = self._ask("names", list(names))["value"]
        return {str(name): self._read(value) for name, value in found.items()}

    def do(self, operation: str, *arguments: Any) -> Any:
        """One of `candidate.OPERATIONS`."""
        return self._read(self._ask("do", operation, [_written(value) for value in arguments])["value"])

    def call(self, target: Remote, arguments: Sequence[Any], keywords: dict[str, Any]) -> Any:
        """Call one of its objects; what it changes in mutable arguments is changed here, too."""
        named = {name: _written(value) for name, value in keywords.items()}
        answer = self._ask("call", _written(target), [_written(value) for value in arguments], named)
        for index, after in answer.get("changed", {}).items():
            _replace(arguments[int(index)], self._read(after))
        return self._read(answer["value"])

    def stream(
        self, name: str, inputs: Sequence[Sequence[Any]], limits: Sequence[float]
    ) -> Iterator[tuple[Any, bool]]:
        """Call one function with many argument lists.

        Args:
            name: the function's.
            inputs: arguments of each call; what the function changes in them isn't seen here.
            limits: seconds for each call.

        Yields:
            Its value, and whether the value's type is exactly the one seen here (not a subclass).

        Raises:
            Exception: what a call raised, by its built-in class.
            CandidateLost: it died or took too long.
        """
        whole = self._deadline
        self._send(["stream", [name, [_written(list(arguments)) for arguments in inputs]]])
        for seconds in limits:
            self._deadline = min(whole, time.monotonic() + seconds)
            answer = self._answer()
            yield self._read(answer["value"]), answer.get("exact") is True

    def _ask(self, action: str, *content: Any) -> dict[str, Any]:
        self._send([action, content])
        return self._answer()

    def _send(self, message: Any) -> None:
        if self.lost is not None:
            raise CandidateLost(self.lost)
        try:
            self._channel.send(message)
        except ChannelClosedError:
            self._lose("died")

    def _answer(self) -> dict[str, Any]:
        try:
            answer = self._channel.receive(self._deadline)
        except ChannelTimeoutError:
            self._lose("timed out")
        except ChannelClosedError:
            self._lose("died")
        if not isinstance(answer, dict):
            self._lose("sent no answer")
        if "error" in answer:
            raise _exception(str(answer["error"]), str(answer.get("text", "")))
        return answer

    def _lose(self, why: str) -> NoReturn:
        self.lost = why
        raise CandidateLost(why) from None

    def _read(self, written: Any) -> Any:
        try:
            return decode(written, lambda number: Remote(self, number))
        except (ValueError, TypeError, LookupError, RecursionError, ArithmeticError, AttributeError):
            self._lose("sent no value")


class Remote:
    """An object of the candidate's that is no plain value. It equals nothing, itself included."""

    __slots__ = ("_candidate", "_number")

    def __init__(self, candidate: Candidate, number: int) -> None:
        object.__setattr__(self, "_candidate", candidate)
        object.__setattr__(self, "_number", number)

    def __eq__(self, other: object) -> bool:
        return False

    def __ne__(self, other: object) -> bool:
        return True

    __hash__ = object.__hash__

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """Call the object, in the candidate."""
        return self._candidate.call(self, arguments, keywords)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._candidate.do("getattr", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._candidate.do("setattr", self, name, value)

    def __getitem__(self, key: Any) -> Any:
        return self._candidate.do("getitem", self, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._candidate.do("setitem", self, key, value)

    def __contains__(self, item: Any) -> bool:
        return self._candidate.do("contains", self, item) is True

    def __iter__(self) -> Iterator[Any]:
        iterator = self._candidate.do("iter", self)
        while True:
            try:
                yield self._candidate.do("next", iterator)
            except StopIteration:
                return

    def __next__(self) -> Any:
        return self._candidate.do("next", self)

    def __len__(self) -> int:
        return int(self._candidate.do("len", self))

    def __bool__(self) -> bool:
        return self._candidate.do("bool", self) is True

    def __str__(self) -> str:
        return str(self._candidate.do("str", self))

    def __repr__(self) -> str:
        return str(self._candidate.do("repr", self))


def _written(value: Any) -> Any:
    return encode(value, _handle)


def _handle(value: Any) -> int:
    if isinstance(value, Remote):
        return int(object.__getattribute__(value, "_number"))
    raise TypeError(f"a test's {type(value).__name__} can't be handed to the program")


def _replace(target: Any, after: Any) -> None:
    """Give a mutable argument the content it has on the other side."""
    if isinstance(target, list) and isinstance(after, list):
        target[:] = after
    elif isinstance(target, dict | set) and isinstance(after, type(target)):
        target.clear()
        target.update(after)


def _exception(name: str, text: str) -> Exception:
    kind = getattr(builtins, name, None)
    if isinstance(kind, type) and issubclass(kind, Exception):
        try:
            return kind(text)
        except TypeError:  # UnicodeDecodeError and its like want more
            return CandidateError(f"{name}: {text}")
    return CandidateError(f"{name}: {text}")
