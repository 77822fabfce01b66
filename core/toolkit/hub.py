"""The Hugging Face hub: whether it can be reached, and how to do without it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from opendllm.registries.errors import first_line

ANSWER_SECONDS = 10
"""How long the hub may take to say anything."""


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


def why_unreachable() -> str | None:
    """Asks the hub for anything, once: its libraries would try for half a minute."""
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=ANSWER_SECONDS)
    except Exception as error:  # of the HTTP client, or of offline mode
        return first_line(error)
    return None
