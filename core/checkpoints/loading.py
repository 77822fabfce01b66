"""A model and its tokenizer from a folder, whatever its family."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from opendllm.core.checkpoints.families import own_section, read_config, with_stored_options
from opendllm.core.checkpoints.files import model_folder
from opendllm.core.checkpoints.stop_ids import end_of_turn_id, stop_token_ids
from opendllm.core.checkpoints.text_codec import TextCodec, codec_of
from opendllm.core.checkpoints.tokenizer_files import has_tokenizer, ids_without_token, read_tokenizer
from opendllm.core.foundation.notices import warn_once
from opendllm.core.foundation.ranks import local_rank
from opendllm.core.networks.noise_section import CONFIG_FILE, read_noise
from opendllm.registries.backbones import Backbone, DiffusionLM
from opendllm.registries.errors import UserError
from opendllm.registries.options import BackboneOptions
from opendllm.registries.registry import ChosenPlugin

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def torch_device(name: str) -> torch.device:
    """The device of that name; `auto` is this process's GPU, or the CPU.

    Raises:
        UserError: it isn't there.
    """
    if name == "auto":
        if not torch.cuda.is_available():
            return torch.device("cpu")
        return torch.device("cuda", local_rank())
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"{name!r} is no device: use cpu, cuda, cuda:1 or auto") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(
            f"device {name!r} was asked for, but torch sees no GPU here: use `device: cpu` or `auto`"
        )
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"nothing is computed on device {name!r} here: use cpu, cuda, cuda:1 or auto")
    return device


@dataclass(frozen=True)
class Checkpoint:
    """A model with all that comes with it.

    Attributes:
        lm: the model; it knows the token that ends an answer, if its tokenizer has one.
        tokenizer: None where the folder has none.
        codec: the tokenizer at work, and what this checkpoint's texts begin and end with.
    """

    lm: DiffusionLM
    tokenizer: PreTrainedTokenizerFast | None
    codec: TextCodec | None


def load_checkpoint(
    path: Path,
    backbone: ChosenPlugin[Backbone, BackboneOptions],
    device: torch.device,
    dtype: torch.dtype | None = None,
    mask_token_id: int | None = None,
    add_bos_token: bool | None = None,
) -> Checkpoint:
    """The model at `path` and its tokenizer, ready to be asked.

    Args:
        path: see `load_model`.
        backbone: see `load_model`.
        device: see `load_model`.
        dtype: see `load_model`.
        mask_token_id: see `load_model`.
        add_bos_token: whether texts begin with BOS; None as the tokenizer says.
    """
    tokenizer = load_tokenizer(path)
    lm = load_model(path, backbone, device, dtype, mask_token_id)
    folder = model_folder(path)
    lm.end_of_turn_token_id = end_of_turn_id(tokenizer)
    lm.stop_token_ids = _known_first(lm, stop_token_ids(folder, read_config(folder), tokenizer), folder)
    if lm.eos_token_id is not None and lm.eos_token_id >= lm.vocab_size:
        lm.eos_token_id = next((token for token in lm.stop_token_ids if token < lm.vocab_size), None)
    lm.ids_without_token = ids_without_token(tokenizer, lm)
    codec = None if tokenizer is None else codec_of(tokenizer, [lm.mask_token_id, *lm.stops], add_bos_token)
    return Checkpoint(lm, tokenizer, codec)


def _known_first(lm: DiffusionLM, stops: tuple[int, ...], folder: Path) -> tuple[int, ...]:
    """The stop ids that the model has rows for before the others, which it can neither write nor be given."""
    unknown = [token for token in stops if token >= lm.vocab_size]
    if unknown:
        warn_once(
            f"{folder} names the stop id {unknown[0]}, and its model knows {lm.vocab_size} ids: no text ends "
            f"there"
        )
    return tuple(sorted(stops, key=lambda token: token >= lm.vocab_size))


def load_model(
    path: Path,
    backbone: ChosenPlugin[Backbone, BackboneOptions],
    device: torch.device,
    dtype: torch.dtype | None = None,
    mask_token_id: int | None = None,
    min_vocab_size: int = 0,
) -> DiffusionLM:
    """The model at `path` alone, as training takes it up with a tokenizer of its own.

    Args:
        path: a folder; see `model_folder`.
        backbone: its family, with options that go before what config.json says of pattern and shift.
        device: where the weights go.
        dtype: of the weights; None keeps the file's.
        mask_token_id: by default the one that config.json or the tokenizer names.
        min_vocab_size: see `Backbone.load`.

    Raises:
        UserError: the folder is incomplete or its files don't fit together.
    """
    folder = model_folder(path)
    config = read_config(folder)
    known = _known_ids(backbone.options, config)
    config["mask_token_id"] = _mask_token_id(folder, config, mask_token_id, known.get("mask_token_id"))
    if config.get("eos_token_id") is None and "eos_token_id" in known:
        config["eos_token_id"] = known["eos_token_id"]
    family = with_stored_options(backbone, folder, config).build()
    noise = read_noise(own_section(folder, config), folder / CONFIG_FILE)
    lm = family.load(folder, config, device, dtype, min_vocab_size)
    lm.noise = noise
    return lm


def _known_ids(options: BackboneOptions, config: dict[str, Any]) -> dict[str, int]:
    """The family's ids; a vocabulary that lacks them is none of its published ones."""
    size = config.get("vocab_size") or 0
    known = options.known_ids
    return dict(known) if all(token_id < size for token_id in known.values()) else {}


def _mask_token_id(folder: Path, config: dict[str, Any], given: int | None, known: int | None) -> int:
    if given is not None:
        return given
    if config.get("mask_token_id") is not None:
        return int(config["mask_token_id"])
    tokenizer = load_tokenizer(folder)
    if tokenizer is not None and tokenizer.mask_token_id is not None:
        return int(tokenizer.mask_token_id)
    if known is not None:
        return known
    raise UserError(
        f"neither {CONFIG_FILE} nor the tokenizer in {folder} names a mask token: give mask_token_id"
    )


def stop_token_ids_of(path: Path, tokenizer: PreTrainedTokenizerFast | None) -> tuple[int, ...]:
    """The ids at which the texts of the model at `path` end, read and written with this tokenizer."""
    folder = model_folder(path)
    return stop_token_ids(folder, read_config(folder), tokenizer, load_tokenizer(path))


def load_tokenizer(path: Path) -> PreTrainedTokenizerFast | None:
    """The tokenizer beside a model; None where there is none."""
    folder = model_folder(path)
    return read_tokenizer(folder) if has_tokenizer(folder) else None
