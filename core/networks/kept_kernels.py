"""Where compiled kernels are kept between runs."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def keep_kernels() -> None:
    """Keep them in a folder of the user's, unless TORCHINDUCTOR_CACHE_DIR says where: torch's own choice is a
    temporary one."""
    with suppress(OSError, RuntimeError):  # no folder can be made, or a container's user has no home
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = caches / "open-dllm" / "inductor"
        folder.mkdir(parents=True, exist_ok=True)
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))
