"""Checkpoints for others: the published layout, a model card, and nothing of ours that they lack."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from opendllm.core.checkpoints.files import PROVENANCE_FILE, model_folder
from opendllm.core.foundation.atomic_files import write_json, write_text
from opendllm.registries.errors import UserError, first_line

MODEL_FILES = ("*.safetensors", "*.safetensors.index.json", "config.json")
TOKENIZER_FILES = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "chat_template*")


def export_model(checkpoint: Path, target: Path) -> None:
    """Copy a checkpoint's model, its tokenizer and its generation settings into a new folder.

    The weights are copied byte for byte: they are written under the family's published keys from the
    start.

    Args:
        checkpoint: see `model_folder`.
        target: must not exist.

    Raises:
        UserError: `checkpoint` has no model, or `target` exists or can't be written.
    """
    source = model_folder(checkpoint)
    if target.exists():
        raise UserError(f"{target} exists: name a folder that doesn't")
    try:
        _write(source, target)
    except (OSError, ValueError) as error:
        raise UserError(f"{source} cannot be exported to {target}: {first_line(error)}") from error


def _write(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".export-") as staging:
        folder = Path(staging) / target.name
        folder.mkdir()
        for pattern in (*MODEL_FILES, *TOKENIZER_FILES):
            for path in source.glob(pattern):
                shutil.copyfile(path, folder / path.name)
        config = json.loads((folder / "config.json").read_text())
        write_json(folder / "generation_config.json", _generation_config(config))
        provenance_file = source.parent / PROVENANCE_FILE
        if provenance_file.is_file():
            provenance = json.loads(provenance_file.read_text())
            write_json(folder / PROVENANCE_FILE, provenance)
            write_text(folder / "README.md", _model_card(target.name, config, provenance))
        folder.rename(target)


def push_model(checkpoint: Path, repository: str, private: bool) -> str:
    """Export a checkpoint and upload it.

    Returns:
        The address of the upload.

    Raises:
        UserError: the hub refuses it or can't be reached.
    """
    from huggingface_hub import HfApi

    with tempfile.TemporaryDirectory() as staging:
        folder = Path(staging) / repository.rpartition("/")[2]
        export_model(checkpoint, folder)
        hub = HfApi()
        try:
            hub.create_repo(repository, private=private, exist_ok=True)
            uploaded = hub.upload_folder(
                repo_id=repository, folder_path=folder, commit_message="Upload from Open-dLLM"
            )
        except Exception as error:  # of its HTTP client too, which changes with huggingface_hub's version
            raise UserError(f"{repository} cannot be uploaded: {first_line(error)}") from error
    return str(uploaded)


def _generation_config(config: dict[str, Any]) -> dict[str, Any]:
    """The token ids that a decoder needs; everything else is the reader's choice."""
    names = ("bos_token_id", "eos_token_id", "pad_token_id", "mask_token_id")
    return {name: config[name] for name in names if config.get(name) is not None}


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
