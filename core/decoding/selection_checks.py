"""What a sampler's decision has to be: looked at before it is carried out."""

from __future__ import annotations

import torch
from torch import Tensor

from opendllm.registries.errors import PluginError
from opendllm.registries.plugin_calls import wrong_answer
from opendllm.registries.samplers import Sampler, Selection


def checked_selection(selection: object, sampler: Sampler, canvas: Tensor) -> Selection:
    """The sampler's decision, if each of its tensors has its dtype and shape.

    A tensor of another shape would broadcast over rows or positions, and integers for bools would be taken
    bit by bit. Only shapes and dtypes are read, so nothing waits for the device.

    Args:
        selection: what `select` gave.
        sampler: whose it is.
        canvas: [R, L].

    Raises:
        PluginError: it isn't; or the sampler does what it hasn't said that it does.
    """
    if not isinstance(selection, Selection):
        raise _wrong(sampler, f"gave {type(selection).__name__}, and a Selection was expected")
    if all(value is None for value in vars(selection).values()):
        raise _wrong(sampler, "gave a Selection without any decision: give `commit` at least")
    shape = list(canvas.shape)
    bools: dict[str, object] = {
        "commit": selection.commit,
        "remask": selection.remask,
        "delete": selection.delete,
    }
    numbers: dict[str, object] = {"insert": selection.insert, "memory": selection.memory}
    if selection.overwrite is not None:
        bools["overwrite.where"] = selection.overwrite.where
        numbers["overwrite.tokens"] = selection.overwrite.tokens
    for dtype, fields in ((torch.bool, bools), (torch.int64, numbers)):
        for field, values in fields.items():
            if values is not None:
                _check_tensor(sampler, field, values, dtype, shape)
    if selection.finished is not None:
        _check_tensor(sampler, "finished", selection.finished, torch.bool, shape[:1])
    for field, (attribute, declared) in {
        "remask": ("revises", sampler.revises),
        "overwrite": ("revises", sampler.revises),
        "insert": ("edits_length", sampler.edits_length),
        "delete": ("edits_length", sampler.edits_length),
        "finished": ("finishes", sampler.finishes),
    }.items():
        if getattr(selection, field) is not None and not declared:
            raise _wrong(sampler, f"gave {field}, which only a sampler with {attribute} = True may do")
    return selection


def checked_positions(asked: object, sampler: Sampler, canvas: Tensor) -> Tensor:
    """The positions of `canvas` [R, L] that a sampler `asks` for, if these are positions.

    Raises:
        PluginError: they aren't.
    """
    _check_tensor(sampler, None, asked, torch.bool, list(canvas.shape))
    assert isinstance(asked, Tensor)
    return asked


def _check_tensor(
    sampler: Sampler, field: str | None, values: object, dtype: torch.dtype, shape: list[int]
) -> None:
    """Of a field of what `select` gave; None where it is what `asks` gave."""
    if isinstance(values, Tensor):
        if values.dtype == dtype and list(values.shape) == shape:
            return
        came = f"{_dtype(values.dtype)} {list(values.shape)}"
    else:
        came = type(values).__name__
    issue = (
        f"gave {came if field is None else f'{field} as {came}'}, and {_dtype(dtype)} {shape} was expected"
    )
    raise _wrong(sampler, issue, "asks" if field is None else "select")


def _wrong(sampler: Sampler, issue: str, method: str = "select") -> PluginError:
    return wrong_answer(sampler, "sampler", method, issue)


def _dtype(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
