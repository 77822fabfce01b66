"""A checkpoint of another number of processes, converted so that this one's can read it.

ZeRO cuts the optimizer's state into one piece a process. DeepSpeed's universal checkpoint holds it whole,
one file for each parameter and moment; it is made in a folder of its own, read, and deleted.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from opendllm.core.checkpoints.files import ENGINE_FOLDER
from opendllm.core.foundation.process_group import from_first, wait_for_all
from opendllm.core.foundation.ranks import rank
from opendllm.registries.errors import UserError


@contextmanager
def converted(checkpoint: Path) -> Iterator[Path]:
    """A checkpoint's engine state in the universal form, for as long as it is read. Every rank calls this.

    The conversion unpickles, in a process of its own: only ever give it this run's own files.

    Yields:
        The folder that holds it, for `restore_engine`.

    Raises:
        UserError: it cannot be converted.
    """
    staging = checkpoint.with_name(f".{checkpoint.name}.universal")
    failure = ""
    if rank() == 0:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir()
        failure = _convert(checkpoint / ENGINE_FOLDER, staging / ENGINE_FOLDER)
    if from_first([len(failure)]) != [0]:
        shutil.rmtree(staging, ignore_errors=True)
        raise UserError(
            f"checkpoint {checkpoint} cannot be converted for another number of processes"
            f"{': ' + failure if failure else ''}; go on with as many as wrote it"
        )
    yield staging
    wait_for_all()
    if rank() == 0:
        shutil.rmtree(staging, ignore_errors=True)


def _convert(source: Path, target: Path) -> str:
    """Why it failed, in a line; nothing where it didn't."""
    done = subprocess.run(
        [
            sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal",
            "--input_folder", str(source),
            "--output_folder", str(target),
        ],
        env={name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    if done.returncode == 0:
        return ""
    return next(iter(reversed(done.stderr.strip().splitlines())), f"exit code {done.returncode}")
