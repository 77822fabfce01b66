"""`--launcher`: which of the ways to start a run's processes, and what it needs. Imports no torch."""

from __future__ import annotations

import os
import re
import shlex
import sys
from dataclasses import dataclass
from typing import Literal

from opendllm.core.foundation.ranks import started_by_launcher
from opendllm.core.manifest.schema import Launch
from opendllm.registries.errors import UserError

COMMAND_VARIABLE = "OPEN_DLLM_COMMAND"
"""In a process that a launcher of ours started: the command that started the launcher."""
_FLAG = "--launcher"


@dataclass(frozen=True)
class Launcher:
    """A value of `--launcher`.

    Attributes:
        kind: `local` starts processes here, `torchrun` is one of those that torchrun started, `slurm`
            hands the run to a cluster.
        processes: for each node; None for the manifest's number.
    """

    kind: Literal["local", "torchrun", "slurm"]
    processes: int | None = None


def parse_launcher(value: str) -> Launcher:
    """What `--launcher VALUE` means.

    Raises:
        UserError: nothing.
    """
    match = re.fullmatch(r"(local|slurm)(?::([1-9]\d*))?|(torchrun)", value)
    if match is None:
        raise UserError(f"--launcher {value}: write local, local:2 (processes), torchrun, slurm or slurm:8")
    kind, number, _ = match.groups()
    processes = int(number) if number else None
    if kind is None:
        return Launcher("torchrun")
    return Launcher("local" if kind == "local" else "slurm", processes)


def check_launcher(launcher: Launcher | None, launch: Launch | None) -> None:
    """What the manifest says of launching takes effect, and a launcher that should be there is.

    Raises:
        UserError: see above.
    """
    started = started_by_launcher()
    if launcher is None and launch is not None and not started:
        raise UserError(
            "the manifest's `launch` has no effect without a launcher: add --launcher local, torchrun or "
            "slurm, or drop it with --set launch=null"
        )
    if launcher is not None and launcher.kind == "torchrun" and not started:
        raise UserError(
            "--launcher torchrun is for processes that torchrun started (RANK, WORLD_SIZE, MASTER_ADDR and "
            "MASTER_PORT are not all set): to start them here, use --launcher local:N"
        )


def set_environment(launch: Launch | None) -> None:
    """Take on the manifest's variables, before torch or NCCL read them."""
    if launch is not None:
        os.environ.update(launch.environment)


def processes_of_this_machine() -> int:
    """One for each GPU, or one."""
    import torch

    return max(1, torch.cuda.device_count())


def this_command() -> str:
    """The command line of this run, as its user would type it."""
    return os.environ.get(COMMAND_VARIABLE) or shlex.join(["platform", *sys.argv[1:]])


def arguments_without_launcher(arguments: list[str]) -> list[str]:
    """The command line for a process that the launcher starts."""
    kept = []
    following = False
    for argument in arguments:
        if following:
            following = False
        elif argument == _FLAG:
            following = True
        elif not argument.startswith(f"{_FLAG}="):
            kept.append(argument)
    return kept
