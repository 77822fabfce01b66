"""Where compiled kernels are kept between runs."""

from __future__ import annotations

import os
from contextlib import suppress

from opendllm.core.foundation.cache_folder import cache_folder


def keep_kernels() -> None:
    """Keep them in a folder of the user's, unless TORCHINDUCTOR_CACHE_DIR says where: torch's own choice is a
    temporary one."""
    folder = cache_folder()
    if folder is None:
        return
    with suppress(OSError):
        kernels = folder / "inductor"
        kernels.mkdir(parents=True, exist_ok=True)
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(kernels))
