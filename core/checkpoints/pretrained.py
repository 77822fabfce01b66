"""Published checkpoints: a folder as it is, or a hub id, downloaded once."""

from __future__ import annotations

import re
from pathlib import Path

from opendllm.registries.errors import UserError, first_line

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_WANTED_FILES = (
    *("*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja"),
    *("*.txt", "*.model", "*.tiktoken"),
)
"""Never pickled weights, never code."""
PRETRAINED_KEY = "model.backbone.options.pretrained"
"""Where a manifest says which checkpoint it begins with."""


def is_hub_id(name: str) -> bool:
    """Whether it can be a hub id: a mistyped path below a folder that is here sends nobody to the network."""
    return bool(_HUB_ID.fullmatch(name)) and not Path(name).parent.exists()


def commit_of(folder: Path) -> str | None:
    """The hub's commit of a folder that `fetch` gave for an id; None of a folder of one's own."""
    is_snapshot = folder.parent.name == "snapshots" and _COMMIT.fullmatch(folder.name)
    return folder.name if is_snapshot else None


def fetch_config(path_or_hub_id: str) -> Path:
    """The folder of a checkpoint, of which a hub id's has no more than its config.json: see `fetch`."""
    return fetch(path_or_hub_id, ("config.json",))


def fetch(path_or_hub_id: str, files: tuple[str, ...] = _WANTED_FILES, said_as: str = "") -> Path:
    """The folder of a checkpoint.

    Args:
        path_or_hub_id: an existing folder, or an id such as `GSAI-ML/LLaDA-8B-Base`, which
            huggingface_hub downloads into its cache.
        files: patterns of those that are downloaded.
        said_as: the key that names it in a manifest, for messages.

    Raises:
        UserError: there is no such folder, or the hub can't be reached or doesn't know the id.
    """
    folder = Path(path_or_hub_id).expanduser()
    if folder.exists():
        return folder
    where = f"{said_as}: " if said_as else ""
    if not is_hub_id(path_or_hub_id):
        raise UserError(
            f"{where}{path_or_hub_id} does not exist: give a run's variant (whose manifest is run first), a "
            f"checkpoint, a model folder, or a hub id such as GSAI-ML/LLaDA-8B-Base"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        return Path(snapshot_download(path_or_hub_id, allow_patterns=list(files)))
    except RepositoryNotFoundError as error:
        raise UserError(f"{where}the hub has no {path_or_hub_id}, or it wants a token (HF_TOKEN)") from error
    except Exception as error:  # of its HTTP client too, which changes with huggingface_hub's version
        raise UserError(
            f"{where}{path_or_hub_id} cannot be downloaded ({first_line(error)}): where there is no "
            f"network, fetch it elsewhere and give its folder"
        ) from error
