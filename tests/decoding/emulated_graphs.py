"""CUDA graphs, emulated on a CPU: what breaks there breaks here.

A capture records every operation with its tensors; a replay does the same operations to the same memory.
As on a GPU, a capture may not read a number on the host, nor make shapes out of data; what a function
allocated is overwritten between replays; and memory that it read and that is gone by then is an error (on a
GPU it would be another tensor's).
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero", "aten.equal.")
"""Operations that read the device, or whose result's shape hangs on data."""


class CaptureError(RuntimeError):
    """What a GPU refuses while it captures."""


class DeadPointerError(AssertionError):
    """A replay reads memory that has been freed."""


class _Outside:
    """A tensor that a capture read and didn't make; not kept alive by it."""

    def __init__(self, tensor: Tensor) -> None:
        self._storage = StorageWeakRef(tensor.untyped_storage())
        self._like = (tensor.dtype, tensor.storage_offset(), tensor.size(), tensor.stride())

    def tensor(self) -> Tensor:
        if self._storage.expired():
            raise DeadPointerError("a replay reads memory that is gone")
        dtype, offset, size, stride = self._like
        storage = torch.UntypedStorage._new_with_weak_ptr(self._storage.cdata)
        return torch.empty(0, dtype=dtype).set_(storage, offset, size, stride)


class _Recorder(TorchDispatchMode):
    def __init__(self, graph: EmulatedGraph) -> None:
        super().__init__()
        self._graph = graph

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        boolean = any(
            isinstance(each, Tensor) and each.dtype == torch.bool for each in tree_flatten(args[1:])[0]
        )
        name = str(func)
        numbers = all(map(self._graph.is_number, _tensors((args, kwargs))))
        if not numbers and any(word in name for word in WAITS) and "nonzero_static" not in name:
            raise CaptureError(f"{name} waits for the device")
        if boolean and "aten.index" in name and "_select" not in name:
            raise CaptureError(f"{name} by a mask waits for the device")
        self._graph.prepare(func, args, kwargs)
        found = func(*args, **kwargs)
        self._graph.record(func, args, kwargs, found)
        return found


class EmulatedGraph:
    """What one function did."""

    def __init__(self) -> None:
        self._operations: list[tuple[Any, Any, Any, Any, bool]] = []
        self._made: dict[int, Tensor] = {}
        self._numbers: dict[int, Tensor] = {}
        self._before: dict[int, tuple[Tensor, Tensor]] = {}

    def prepare(self, func: Any, args: Any, kwargs: Any) -> None:
        """A capture does nothing: what the operation writes over is kept, to be put back."""
        given = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False)) | kwargs
        for argument in func._schema.arguments:
            if argument.alias_info is None or not argument.alias_info.is_write:
                continue
            for each in _tensors(given.get(argument.name)):
                if _address(each) not in (*self._made, *self._before):
                    whole = _whole(each)
                    self._before[_address(each)] = (whole, whole.clone())

    def is_number(self, tensor: Tensor) -> bool:
        """Whether it lies on the host, as what is made of the program's own numbers does."""
        return _address(tensor) in self._numbers

    def undo(self) -> None:
        for whole, before in self._before.values():
            whole.copy_(before)
        self._before.clear()

    def record(self, func: Any, args: Any, kwargs: Any, found: Any) -> None:
        read = {_address(each) for each in _tensors((args, kwargs))}
        writes = any(arg.alias_info is not None and arg.alias_info.is_write for arg in func._schema.arguments)
        made = _tensors(found)
        of_numbers = all(_address(each) in self._numbers for each in _tensors((args, kwargs)))
        if "lift_fresh" in str(func) or (of_numbers and made and not made[0].ndim):
            # The program's own, on the host: a graph holds its value.
            self._numbers.update({_address(each): each for each in made})
            return
        view = not writes and bool(made) and all(_address(each) in read for each in made)
        if not writes:
            for each in made:
                if _address(each) not in read:
                    self._made[_address(each)] = each
        if not view:
            kept = tree_map(self._kept, (args, kwargs, found))
            self._operations.append((func, *kept, writes))

    def _kept(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.numel():
            return value
        inside = _address(value) in self._made or _address(value) in self._numbers
        return value if inside else _Outside(value)

    def replay(self) -> None:
        for func, args, kwargs, made, writes in self._operations:
            args, kwargs, made = tree_map(_there, (args, kwargs, made))
            again = func(*args, **kwargs)
            if not writes:
                for kept, new in zip(_tensors(made), _tensors(again), strict=True):
                    if kept.numel():
                        kept.copy_(new)
        self.forget()

    def forget(self) -> None:
        """What was allocated is another graph's until the next replay."""
        for each in self._made.values():
            _whole(each).fill_(torch.nan if each.is_floating_point() else each.dtype == torch.bool or -7)


class EmulatedCaptures:
    """Implements `Captures`.

    Attributes:
        captured: how many graphs there are.
        replayed: how many replays there were.
        refused: what captures were refused for.
    """

    def __init__(self) -> None:
        self.captured = 0
        self.replayed = 0
        self.refused: list[str] = []

    def capture(self, function: Callable[[], None]) -> _Counted:
        graph = EmulatedGraph()
        with no_host_reads(graph.is_number):
            try:
                with _Recorder(graph):
                    function()
            except CaptureError as error:
                self.refused.append("".join(traceback.format_exception(error)))
                raise
            finally:
                graph.undo()
        graph.forget()
        self.captured += 1
        return _Counted(graph, self)


class _Counted:
    def __init__(self, graph: EmulatedGraph, captures: EmulatedCaptures) -> None:
        self._graph, self._captures = graph, captures

    def replay(self) -> None:
        self._captures.replayed += 1
        self._graph.replay()


@contextmanager
def no_host_reads(is_number: Callable[[Tensor], bool]) -> Iterator[None]:
    """Tensors don't come to the host, and nothing goes from there to the device."""

    def refuse(name: str) -> Callable[..., Any]:
        own = getattr(Tensor, name, None)

        def refused(*args: Any, **kwargs: Any) -> Any:
            if own is not None and is_number(args[0]):
                return own(*args, **kwargs)
            raise CaptureError(f"{name} under capture")

        return refused

    with ExitStack() as patches:
        patches.enter_context(mock.patch.object(Tensor, "is_cuda", True))  # what it does there is meant
        for name in ("cpu", "numpy", "tolist", "item", "__bool__", "__int__", "__float__"):
            patches.enter_context(mock.patch.object(Tensor, name, refuse(name)))
        for name in ("from_numpy", "tensor"):
            patches.enter_context(mock.patch.object(torch, name, refuse(f"torch.{name}")))
        yield


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _whole(tensor: Tensor) -> Tensor:
    """All of the memory that a tensor is a view of."""
    return torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage())


def _tensors(tree: Any) -> list[Tensor]:
    return [each for each in tree_flatten(tree)[0] if isinstance(each, Tensor)]


def _there(value: Any) -> Any:
    return value.tensor() if isinstance(value, _Outside) else value
