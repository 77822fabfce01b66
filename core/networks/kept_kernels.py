"""Where compiled kernels are kept between runs."""

from __future__ import annotations

import os
from contextlib import suppress

from opendllm.core.foundation.cache_folder import cache_folder


def keep_kernels() -> None:
    """Keep them in a folder of the user's, unless TORCHINDUCTOR_CACHE_DIR says where: torch's own choice is a
    temporary one."""
    with suppress(OSError, RuntimeError):  # no folder can be made, or a container's user has no home
        folder = cache_folder() / "inductor"
        folder.mkdir(parents=True, exist_ok=True)
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))
