"""Weights in Hugging Face folders: safetensors only, one file or shards, read one tensor at a time."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import torch
from huggingface_hub import StateDictSplit, split_state_dict_into_shards_factory
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from opendllm.core.networks.weight_files import INDEX_FILE, StoredTensor, stored_tensors
from opendllm.core.networks.weight_pieces import Piece, Pieces
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


def load_into(
    module: nn.Module,
    folder: Path,
    rename: Mapping[str, str] | None = None,
    pieces: Pieces | None = None,
    other_pieces: Pieces | None = None,
) -> None:
    """Copy a checkpoint's tensors into `module`, each cast to its parameter's device and dtype.

    Args:
        module: with allocated parameters, and buffers that checkpoints hold.
        folder: holds the safetensors.
        rename: from the file's keys to the module's; None where they are the same.
        pieces: the file's keys that are no whole parameter.
        other_pieces: keys that may stand in their place.

    Raises:
        UserError: a key is missing or unknown, or is another one's parameter with other values; a shape
            differs; a tensor is not of plain numbers, or not finite; a file is damaged.
    """
    # A tied weight appears once in named_parameters and may be in the file under its other name.
    state = module.state_dict(keep_vars=True)
    names_by_storage: dict[int, str] = {}
    for name, parameter in state.items():
        names_by_storage.setdefault(id(parameter), name)
    prefix = f"{getattr(module, 'base_model_prefix', 'model')}."
    computed = _computed_names(module)
    stored = {
        key: tensor
        for key, tensor in stored_tensors(folder).items()
        if not key.endswith(_COMPUTED_SUFFIX)
        and ({key, prefix + key} & state.keys() or not any(each.search(key) for each in computed))
    }
    names = {key: key if rename is None else rename.get(key, key) for key in stored}
    if names and all(prefix + name in state for name in names.values()):  # saved without its head
        names = {key: prefix + key for key in names}
    parts = {**(pieces or {}), **(other_pieces or {})}
    known = {*state, *(rename or {}), *parts}
    missing = {identity: state[name].numel() for identity, name in names_by_storage.items()}
    loaded_from: dict[tuple[int, str], str] = {}
    with torch.no_grad():
        for key, tensor in _tensors(stored):
            path, name = stored[key].path, names[key]
            if name not in state and key not in parts:
                raise UserError(f"{path} holds {key}, which this model does not have{_why(key, known)}")
            if stored[key].dtype not in _PLAIN_DTYPES:
                raise UserError(
                    f"{path}: {key} holds {stored[key].dtype} numbers, which mean nothing without the scales "
                    f"that they were quantized with: take the unquantized checkpoint"
                )
            wholes = [Piece(name)] if name in state else [*parts[key]]
            targets = [piece.of(state[piece.name]) for piece in wholes]
            rows = [len(target) for target in targets]
            shape = [sum(rows), *targets[0].shape[1:]] if targets[0].ndim else []
            if shape != list(tensor.shape):
                raise UserError(f"{path}: {key} has shape {list(tensor.shape)}, config.json asks for {shape}")
            split = tensor.split(rows) if len(rows) > 1 else [tensor]
            for piece, target, values in zip(wholes, targets, split, strict=True):
                identity = id(state[piece.name])
                part = (identity, str(piece.index))
                before = loaded_from.setdefault(part, key)
                if before != key and not torch.equal(target, values.to(target)):
                    raise UserError(
                        f"{before} in {stored[before].path} and {key} in {path} are one parameter of this "
                        f"model, with different values: delete the one that is not meant"
                    )
                target.copy_(values)
                if not _finite(target):
                    raise UserError(
                        f"{path}: {key} holds numbers that are not finite in "
                        f"{str(target.dtype).removeprefix('torch.')}: the checkpoint is broken, or made for "
                        f"a wider dtype"
                    )
                missing[identity] -= target.numel() if before == key else 0
    lacking = {names_by_storage[identity] for identity, numbers in missing.items() if numbers > 0}
    if lacking:
        found = _published_names(lacking, rename or {}, pieces or {}, stored)
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        raise UserError(f"{folder} lacks the weights {', '.join(found[:3])}{more}")


def _published_names(
    lacking: set[str], rename: Mapping[str, str], pieces: Pieces, stored: Collection[str]
) -> list[str]:
    """The keys that a file lacks, of parameters that aren't whole."""
    of_pieces = {
        key: {part.name for part in parts} & lacking for key, parts in pieces.items() if key not in stored
    }
    in_pieces = {part.name for parts in pieces.values() for part in parts}
    inverse = {ours: theirs for theirs, ours in rename.items()}
    whole = [inverse.get(name, name) for name in lacking - in_pieces]
    return sorted(whole) + [key for key, names in of_pieces.items() if names]


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


def _computed_names(module: nn.Module) -> list[re.Pattern[str]]:
    """Of what older checkpoints hold and the class works out, as GPT-2's causal mask: `h.0.attn.bias`."""
    found = getattr(module, "_keys_to_ignore_on_load_unexpected", None) or ()
    return [re.compile(pattern) for pattern in found]


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
