"""Checkpoints for others: the published layout, a model card, and nothing of ours that they lack."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from pydantic import ByteSize, TypeAdapter, ValidationError

from opendllm.core.checkpoints.files import PROVENANCE_FILE, model_folder, provenance_of
from opendllm.core.checkpoints.loading import load_tokenizer
from opendllm.core.checkpoints.stop_ids import stop_token_ids
from opendllm.core.foundation.atomic_files import write_json, write_text
from opendllm.core.foundation.json_objects import read_json_object
from opendllm.core.networks.transformers_lm import GENERATION_FILE
from opendllm.core.networks.weight_files import stored_tensors, whole_files
from opendllm.registries.errors import UserError, first_line
from opendllm.registries.machine_errors import in_words

MAX_SHARD_SIZE = "5GB"
"""As the hub's tools write."""
CONFIG_FILES = ("config.json",)
TOKENIZER_FILES = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "chat_template*")


def export_model(checkpoint: Path, target: Path, max_shard_size: str = MAX_SHARD_SIZE) -> None:
    """Copy a checkpoint's model, its tokenizer and its generation settings into a new folder.

    The weights are under the family's published keys from the start. Their files are copied byte for
    byte, or where one is larger than `max_shard_size` written anew in shards, every number as it was.

    Args:
        checkpoint: see `model_folder`.
        target: must not exist.
        max_shard_size: of the weights in one file, as in 5GB or 200MB; a larger tensor has its own file.

    Raises:
        UserError: `checkpoint` has no model, `target` exists or can't be written, or the size is none.
    """
    source = model_folder(checkpoint)
    largest = _bytes(max_shard_size)
    if target.exists():
        raise UserError(f"{target} exists: name a folder that doesn't")
    try:
        _write(source, target, largest)
    except (OSError, ValueError) as error:
        raise UserError(f"{source} cannot be exported to {target}: {_reason(error)}") from error


def _reason(error: OSError | ValueError) -> str:
    if not isinstance(error, OSError):
        return first_line(error)
    return f"{error.filename}: {in_words(error)}" if error.filename else in_words(error)


def _write(source: Path, target: Path, max_shard_size: int) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".export-") as staging:
        folder = Path(staging) / target.name
        folder.mkdir()
        _write_weights(source, folder, max_shard_size)
        for pattern in (*CONFIG_FILES, *TOKENIZER_FILES):
            for path in source.glob(pattern):
                shutil.copyfile(path, folder / path.name)
        config = read_json_object(folder / "config.json")
        write_json(folder / GENERATION_FILE, _generation_config(source, config))
        if (source.parent / PROVENANCE_FILE).is_file():
            provenance = provenance_of(source.parent)
            write_json(folder / PROVENANCE_FILE, provenance)
            write_text(folder / "README.md", _model_card(target.name, config, provenance))
        folder.rename(target)


def _write_weights(source: Path, target: Path, max_shard_size: int) -> None:
    from opendllm.core.networks.safetensors_folder import write_shards

    stored = stored_tensors(source)
    files = whole_files(source, stored)
    in_file = Counter[Path]()
    for tensor in stored.values():
        in_file[tensor.path] += tensor.bytes
    if files is None or max(in_file.values(), default=0) > max_shard_size:
        write_shards(stored, target, max_shard_size)
        return
    for path in files:
        shutil.copyfile(path, target / path.name)


def _bytes(size: str) -> int:
    try:
        found = int(TypeAdapter(ByteSize).validate_python(size))
    except ValidationError:
        found = 0
    if found < 1:
        raise UserError(f"max_shard_size {size!r} is no size: write 5GB, 200MB or the like")
    return found


def push_model(checkpoint: Path, repository: str, private: bool, max_shard_size: str = MAX_SHARD_SIZE) -> str:
    """Export a checkpoint and upload it.

    Returns:
        The address of the upload.

    Raises:
        UserError: the hub refuses it or can't be reached.
    """
    from huggingface_hub import HfApi

    with tempfile.TemporaryDirectory() as staging:
        folder = Path(staging) / repository.rpartition("/")[2]
        export_model(checkpoint, folder, max_shard_size)
        hub = HfApi()
        try:
            hub.create_repo(repository, private=private, exist_ok=True)
            uploaded = hub.upload_folder(
                repo_id=repository, folder_path=folder, commit_message="Upload from Open-dLLM"
            )
        except Exception as error:  # of its HTTP client too, which changes with huggingface_hub's version
            raise UserError(f"{repository} cannot be uploaded: {first_line(error)}") from error
    return str(uploaded)


def _generation_config(source: Path, config: dict[str, Any]) -> dict[str, Any]:
    """The token ids that a decoder needs; everything else is the reader's choice."""
    stops = stop_token_ids(source, config, load_tokenizer(source))
    ids = {name: config.get(name) for name in ("bos_token_id", "pad_token_id", "mask_token_id")}
    ids["eos_token_id"] = stops[0] if len(stops) == 1 else list(stops) or None
    return {name: value for name, value in ids.items() if value is not None}


def _model_card(name: str, config: dict[str, Any], provenance: dict[str, Any]) -> str:
    own = config.get("open_dllm", {})
    plugins = "\n".join(f"- {plugin}: {package}" for plugin, package in provenance["plugins"].items())
    return (
        f"---\nlibrary_name: open-dllm\ntags: [diffusion-language-model]\n---\n\n# {name}\n\n"
        f"A diffusion language model of the {own.get('backbone', 'unknown')} family, step "
        f"{provenance['step']}, {own.get('attention', 'bidirectional')} attention, logits "
        f"{'shifted by one' if own.get('logit_shift') else 'not shifted'}.\n\n"
        f"Trained from manifest {provenance['training_digest']} with seed {provenance['seed']}:\n\n"
        f"{plugins}\n\n"
        f"Read the tokenizer with `PreTrainedTokenizerFast.from_pretrained`: `AutoTokenizer` may put the "
        f"stock family's own pre-tokenizer in the file's place.\n"
    )
