"""The surroundings in which DeepSpeed starts without compiling anything."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def deepspeed_environment() -> Iterator[None]:
    """What DeepSpeed wants to find while it initializes and trains.

    The variables are set for that time only: left behind, they would look to child processes as if
    a launcher had started them. DeepSpeed's shared-memory collectives are switched off: they would be
    compiled at the first start, which needs a C++ compiler and can hang on a stale lock.
    """
    wanted = {"LOCAL_RANK": "0", "DS_ACCELERATOR": "cuda" if torch.cuda.is_available() else "cpu"}
    added = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(added)
    try:
        import deepspeed.ops

        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        with warnings.catch_warnings():
            # DeepSpeed calls collectives by names that torch is about to drop; users can't help it.
            warnings.filterwarnings("ignore", message=r"`torch\.distributed\.\w+` is deprecated")
            yield
    finally:
        for name in added:
            del os.environ[name]
