"""The Hugging Face hub: whether it can be reached, and how to do without it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from opendllm.registries.errors import first_line

ANSWER_SECONDS = 10
"""How long the hub may take to say anything: its libraries would try for half a minute."""


def hub_cache() -> Path:
    """Where huggingface_hub keeps what it has downloaded, without importing it."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub").expanduser()


def in_hub_cache(model: str) -> bool:
    """Whether some version of a hub's model was downloaded before."""
    snapshots = hub_cache() / f"models--{model.replace('/', '--')}" / "snapshots"
    return snapshots.is_dir() and any(snapshots.iterdir())


@contextmanager
def offline() -> Iterator[None]:
    """Within, data sets come from this machine alone, as under HF_HUB_OFFLINE.

    What isn't there fails at once.
    """
    from datasets import config
    from huggingface_hub import constants

    before = config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE
    config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = before


def dataset_commit(dataset: str) -> str | None:
    """The newest commit of a data set, asked of the hub once; None in offline mode, where nothing is asked.

    Raises:
        Exception: of the hub's client: it can't be reached in time, or doesn't know the data set.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import OfflineModeIsEnabled

    try:
        return str(HfApi().dataset_info(dataset, timeout=ANSWER_SECONDS).sha)
    except OfflineModeIsEnabled:
        return None


def why_unreachable() -> str | None:
    """Asks the hub for anything, once; None where it answers."""
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=ANSWER_SECONDS)
    except Exception as error:  # of the HTTP client, or of offline mode
        return first_line(error)
    return None
