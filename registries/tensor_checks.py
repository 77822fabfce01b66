"""What a plugin gives, in words, and what is wrong with a type or a tensor; knows no torch."""

from __future__ import annotations

from typing import Any


def described(value: Any) -> str:
    """Dtype and shape of a tensor, the type's name of anything else."""
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    return type(value).__name__


def wrong_type(value: Any, wanted: type | tuple[type, ...], what: str) -> str | None:
    """What is wrong with a value that should be of a class."""
    return None if isinstance(value, wanted) else f"gave {described(value)}, and {what} was expected"


def wrong_tensor(value: Any, kind: str, shape: list[int], what: str) -> str | None:
    """What is wrong with a tensor that should be of a shape, and of dtype `bool`, `int64` or any float."""
    dtype = str(getattr(value, "dtype", "")).removeprefix("torch.")
    if (
        hasattr(value, "shape")
        and list(value.shape) == shape
        and (kind in dtype if kind == "float" else kind == dtype)
    ):
        return None
    return f"gave {described(value)}, and {kind} {shape} was expected: {what}"
