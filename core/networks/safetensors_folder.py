"""Weights in Hugging Face folders: safetensors only, one file or shards, read one tensor at a time."""

from __future__ import annotations

import itertools
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import torch
from huggingface_hub import StateDictSplit, split_state_dict_into_shards_factory
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from opendllm.core.networks.weight_files import INDEX_FILE, StoredTensor, stored_tensors
from opendllm.registries.errors import UserError

MAX_SHARD_SIZE = 5 * 10**9
"""Bytes of a file of weights, as the hub's tools write them."""
_COMPUTED_SUFFIX = ".rotary_emb.inv_freq"
"""Some older checkpoints store what config.json determines."""
_PLAIN_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
"""What stands for itself; everything else needs a scale that somebody else knows."""
_WRAPPERS = {
    "_orig_mod.": "torch.compile",
    "module.": "DistributedDataParallel or DeepSpeed",
    "base_model.model.": "peft",
    "network.": "the module around the network",
}
_QUANTIZED_SUFFIXES = {
    ".qweight": "GPTQ or AWQ",
    ".qzeros": "GPTQ or AWQ",
    ".g_idx": "GPTQ",
    ".weight_scale_inv": "fp8",
    ".weight_scale": "fp8 or compressed-tensors",
    ".weight_packed": "compressed-tensors",
    ".absmax": "bitsandbytes",
    ".quant_map": "bitsandbytes",
    ".SCB": "bitsandbytes",
}


def stored_dtype(folder: Path) -> torch.dtype:
    """The narrowest dtype that holds all of a checkpoint's weights, float32 where none is floating."""
    found = {tensor.dtype for tensor in stored_tensors(folder).values()} & set(_PLAIN_DTYPES)
    if not found:
        return torch.float32
    dtypes = [_PLAIN_DTYPES[name] for name in sorted(found)]
    widest = dtypes[0]
    for dtype in dtypes[1:]:
        widest = torch.promote_types(widest, dtype)
    return widest


def differ(folder: Path, first: str, second: str) -> bool:
    """Whether a checkpoint holds both keys, with different values."""
    stored = stored_tensors(folder)
    if first not in stored or second not in stored:
        return False
    one, other = (_read(stored[key], key) for key in (first, second))
    return not torch.equal(one, other.to(one.dtype))


def load_into(module: nn.Module, folder: Path, rename: Mapping[str, str] | None = None) -> None:
    """Copy a checkpoint's tensors into `module`, each cast to its parameter's device and dtype.

    Args:
        module: with allocated parameters.
        folder: holds the safetensors.
        rename: from the file's keys to the module's; None where they are the same.

    Raises:
        UserError: a key is missing or unknown, or is another one's parameter with other values; a shape
            differs; a tensor is not of plain numbers, or not finite; a file is damaged.
    """
    # A tied weight appears once in named_parameters and may be in the file under its other name.
    names_by_storage: dict[int, str] = {id(parameter): name for name, parameter in module.named_parameters()}
    state = {name: (id(p), p) for name, p in module.named_parameters(remove_duplicate=False)}
    stored = {
        key: tensor for key, tensor in stored_tensors(folder).items() if not key.endswith(_COMPUTED_SUFFIX)
    }
    names = {key: key if rename is None else rename.get(key, key) for key in stored}
    if _is_base_model(names, state):
        names = {key: f"model.{key}" for key in names}
    known = {*state, *(rename or {})}
    missing = set(names_by_storage.values())
    loaded_from: dict[int, str] = {}
    with torch.no_grad():
        for key, tensor in _tensors(stored):
            path, name = stored[key].path, names[key]
            if name not in state:
                raise UserError(f"{path} holds {key}, which this model does not have{_why(key, known)}")
            if stored[key].dtype not in _PLAIN_DTYPES:
                raise UserError(
                    f"{path}: {key} holds {stored[key].dtype} numbers, which mean nothing without the scales "
                    f"that they were quantized with: take the unquantized checkpoint"
                )
            identity, parameter = state[name]
            if parameter.shape != tensor.shape:
                raise UserError(
                    f"{path}: {key} has shape {list(tensor.shape)}, "
                    f"config.json asks for {list(parameter.shape)}"
                )
            before = loaded_from.setdefault(identity, key)
            if before != key and not torch.equal(parameter, tensor.to(parameter)):
                raise UserError(
                    f"{before} in {stored[before].path} and {key} in {path} are one parameter of this model, "
                    f"with different values: delete the one that is not meant"
                )
            parameter.copy_(tensor)
            if not _finite(parameter):
                raise UserError(
                    f"{path}: {key} holds numbers that are not finite in "
                    f"{str(parameter.dtype).removeprefix('torch.')}: the checkpoint is broken, or made for a "
                    f"wider dtype"
                )
            missing.discard(names_by_storage[identity])
    if missing:
        inverse = {ours: theirs for theirs, ours in (rename or {}).items()}
        lacking = sorted(inverse.get(name, name) for name in missing)
        more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
        raise UserError(f"{folder} lacks the weights {', '.join(lacking[:3])}{more}")


def write_weights(folder: Path, weights: Mapping[str, Tensor]) -> None:
    """Write safetensors with the metadata that transformers expects, in files of `MAX_SHARD_SIZE`."""
    tensors = {key: tensor.detach().to("cpu").contiguous() for key, tensor in weights.items()}
    sizes = {key: tensor.nbytes for key, tensor in tensors.items()}
    split = _split(sizes, MAX_SHARD_SIZE)
    for name, keys in split.filename_to_tensors.items():
        save_file({key: tensors[key] for key in keys}, folder / name, metadata={"format": "pt"})
    _write_index(folder, split)


def write_shards(stored: Mapping[str, StoredTensor], target: Path, max_shard_size: int) -> None:
    """Write stored tensors anew, bit for bit; one file's are in memory at a time.

    Args:
        stored: what to write, under the same keys.
        target: the folder.
        max_shard_size: bytes of weights in a file; a larger tensor has a file of its own.
    """
    split = _split({key: tensor.bytes for key, tensor in stored.items()}, max_shard_size)
    metadata = {"format": "pt"}
    for path in {tensor.path for tensor in stored.values()}:
        with safe_open(path, framework="pt") as file:
            metadata |= file.metadata() or {}  # some quantized weights are described there
    for name, keys in split.filename_to_tensors.items():
        tensors = dict(_tensors({key: stored[key] for key in keys}))
        save_file(tensors, target / name, metadata=metadata)
    _write_index(target, split)


def _split(sizes: dict[str, int], max_shard_size: int) -> StateDictSplit:
    return split_state_dict_into_shards_factory(
        sizes,
        get_storage_size=lambda size: size,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=max_shard_size,
    )


def _write_index(folder: Path, split: StateDictSplit) -> None:
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n")


def _tensors(stored: Mapping[str, StoredTensor]) -> Iterator[tuple[str, Tensor]]:
    """(key, tensor), one file open at a time: what is mapped of the others can be dropped."""
    for path, keys in itertools.groupby(stored, key=lambda key: stored[key].path):
        with safe_open(path, framework="pt") as file:
            for key in keys:
                yield key, file.get_tensor(key)


def _read(tensor: StoredTensor, key: str) -> Tensor:
    [(_, values)] = _tensors({key: tensor})
    return values


def _finite(parameter: Tensor) -> bool:
    """A sum is one pass without memory of its own; where it overflows, all are looked at."""
    return bool(parameter.sum().isfinite()) or bool(parameter.isfinite().all())


def _is_base_model(names: Mapping[str, str], state: Mapping[str, object]) -> bool:
    """Whether the file is of the network without its head (`LlamaModel`), whose keys lack `model.`."""
    return bool(names) and all(f"model.{name}" in state for name in names.values())


def _why(key: str, known: Collection[str]) -> str:
    """A guess at how an unknown key came to be."""
    for prefix, maker in _WRAPPERS.items():
        if key.startswith(prefix) and key.removeprefix(prefix) in known:
            return f": {prefix!r} is left by {maker}; save the state dict of the model inside"
    for suffix, method in _QUANTIZED_SUFFIXES.items():
        if key.endswith(suffix):
            return (
                f": these look like weights quantized by {method}, of which config.json says nothing; take "
                f"the unquantized checkpoint"
            )
    return ""
