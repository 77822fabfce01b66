"""What a sampler's decision has to be: looked at before it is carried out."""

from __future__ import annotations

import torch
from torch import Tensor

from opendllm.registries.errors import UserError
from opendllm.registries.samplers import Sampler, Selection


def checked_selection(selection: object, sampler: Sampler, canvas: Tensor) -> Selection:
    """The sampler's decision, if each of its tensors is bool and of the canvas's shape.

    A tensor of another shape would broadcast over rows or positions, and an integer one would be taken
    bit by bit. Only shapes and dtypes are read, so nothing waits for the device.

    Args:
        selection: what `select` gave.
        sampler: whose it is.
        canvas: [R, L].

    Raises:
        UserError: it isn't; or the sampler masks again, expands or deletes, and hasn't said that it does.
    """
    name = type(sampler).__name__
    if not isinstance(selection, Selection):
        raise UserError(
            f"sampler {name}: select gave {type(selection).__name__}, and a Selection was expected"
        )
    _check_tensor(name, "commit", selection.commit, canvas)
    if selection.remask is not None:
        _check_tensor(name, "remask", selection.remask, canvas)
        _check_declared(name, "remask", "revises", sampler.revises)
    if selection.expand is not None:
        _check_tensor(name, "expand", selection.expand, canvas)
        _check_declared(name, "expand", "edits_length", sampler.edits_length)
    if selection.delete is not None:
        _check_tensor(name, "delete", selection.delete, canvas)
        _check_declared(name, "delete", "edits_length", sampler.edits_length)
    return selection


def _check_tensor(name: str, field: str, values: object, canvas: Tensor) -> None:
    if isinstance(values, Tensor):
        if values.dtype == torch.bool and values.shape == canvas.shape:
            return
        came = f"{str(values.dtype).removeprefix('torch.')} {list(values.shape)}"
    else:
        came = type(values).__name__
    raise UserError(
        f"sampler {name}: select gave {field} as {came}, and bool {list(canvas.shape)} was expected"
    )


def _check_declared(name: str, field: str, attribute: str, declared: bool) -> None:
    if not declared:
        raise UserError(
            f"sampler {name}: select gave {field}, which only a sampler with {attribute} = True may do"
        )
