"""Weights in Hugging Face folders: safetensors only, one file or shards, read one tensor at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from opendllm.registries.errors import UserError

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
_COMPUTED_SUFFIX = ".rotary_emb.inv_freq"
"""Some older checkpoints store what config.json determines."""


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint.

    Raises:
        UserError: there are none, or the index is unreadable or names one that is missing.
    """
    names = _indexed_files(folder / INDEX_FILE) if (folder / INDEX_FILE).is_file() else [SINGLE_FILE]
    for name in names:
        if not (folder / name).is_file():
            found = ", ".join(sorted(path.name for path in folder.glob("*.bin"))) or "none"
            raise UserError(
                f"{folder} has no {name}; only safetensors are read (pickled weights there: {found})"
            )
    return [folder / name for name in names]


def _indexed_files(index: Path) -> list[str]:
    try:
        names = sorted(
            {str(name) for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()}
        )
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{index} is damaged: no `weight_map` from keys to files") from error
    for name in names:
        if Path(name).name != name:
            raise UserError(f"{index} names {name!r}, which is outside its folder")
    return names


def _tensors(folder: Path) -> Iterator[tuple[Path, str, Tensor]]:
    """(file, key, tensor), one file open at a time: what is mapped of the others can be dropped."""
    for path in weight_files(folder):
        try:
            with safe_open(path, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118 (safe_open's handle is no mapping)
                    if not key.endswith(_COMPUTED_SUFFIX):
                        yield path, key, file.get_tensor(key)
        except SafetensorError as error:
            raise UserError(f"{path} is damaged or cut short: {error}") from error


def load_into(module: nn.Module, folder: Path, rename: Mapping[str, str] | None = None) -> None:
    """Copy a checkpoint's tensors into `module`, each cast to its parameter's device and dtype.

    Args:
        module: with allocated parameters.
        folder: holds the safetensors.
        rename: from the file's keys to the module's; None where they are the same.

    Raises:
        UserError: a key is missing or unknown, a shape differs, or a file is damaged.
    """
    # A tied weight appears once in named_parameters and may be in the file under its other name.
    names_by_storage: dict[int, str] = {id(parameter): name for name, parameter in module.named_parameters()}
    state = {name: (id(p), p) for name, p in module.named_parameters(remove_duplicate=False)}
    missing = set(names_by_storage.values())
    with torch.no_grad():
        for path, key, tensor in _tensors(folder):
            name = key if rename is None else rename.get(key, key)
            if name not in state:
                raise UserError(f"{path} holds {key}, which this model does not have")
            identity, parameter = state[name]
            if parameter.shape != tensor.shape:
                raise UserError(
                    f"{path}: {key} has shape {list(tensor.shape)}, "
                    f"config.json asks for {list(parameter.shape)}"
                )
            parameter.copy_(tensor)
            missing.discard(names_by_storage[identity])
    if missing:
        inverse = {ours: theirs for theirs, ours in (rename or {}).items()}
        names = sorted(inverse.get(name, name) for name in missing)
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise UserError(f"{folder} lacks the weights {', '.join(names[:3])}{more}")


def write_weights(folder: Path, weights: Mapping[str, Tensor]) -> None:
    """Write one safetensors file with the metadata that transformers expects."""
    tensors = {key: tensor.detach().to("cpu").contiguous() for key, tensor in weights.items()}
    save_file(tensors, folder / SINGLE_FILE, metadata={"format": "pt"})
