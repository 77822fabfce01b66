"""A GPU made ready while the processor imports libraries, which is a second or two that nobody waits for."""

from __future__ import annotations

import threading
from contextlib import suppress

from opendllm.core.foundation.ranks import local_rank


def start_device(name: str) -> threading.Thread | None:
    """Make a GPU's context, and have its library of products loaded, in a thread.

    Whatever goes wrong there goes wrong again where the device is used, and is said there.

    Args:
        name: of the device, as manifests and commands name it; `auto` is this process's GPU.

    Returns:
        The thread at work; None where nothing has to be started.
    """
    if name != "auto" and not name.startswith("cuda"):
        return None
    thread = threading.Thread(target=_start, args=(name,), daemon=True)
    thread.start()
    return thread


def _start(name: str) -> None:
    import torch

    with suppress(RuntimeError, AssertionError, ValueError):
        if torch.cuda.is_available():
            device = torch.device("cuda", local_rank()) if name == "auto" else torch.device(name)
            square = torch.zeros(16, 16, dtype=torch.bfloat16, device=device)
            torch.mm(square, square)
