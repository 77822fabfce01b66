"""`--launcher slurm`: a batch script that starts the local launcher on every node, handed to sbatch."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from opendllm.core.foundation.atomic_files import write_text
from opendllm.core.launching.launcher import arguments_without_launcher
from opendllm.core.manifest.schema import Launch, Slurm
from opendllm.registries.errors import UserError
from opendllm.registries.machine_errors import in_words

SCRIPT_FILE = "slurm.sh"
SECONDS_TO_SAVE = 300
"""How long before the job's time is up its processes get SIGTERM, so that they save."""
_PORT = "$((29500 + SLURM_JOB_ID % 1000))"
"""Two jobs on one node must not meet each other."""
_CPUS = 'if [ -n "${SLURM_CPUS_PER_TASK:-}" ]; then export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"; fi\n'
"""Since Slurm 22.05 srun doesn't inherit it: each node's processes would share one core."""


def submit(name: str, folder: Path, launch: Launch, processes: int | None) -> str:
    """Write the script into the run's folder and submit it; the job runs this same command.

    Args:
        name: the job's.
        folder: the run's, which every node must see.
        launch: nodes, processes and Slurm's options.
        processes: for each node; None for one a GPU.

    Returns:
        What sbatch said.

    Raises:
        UserError: there is no sbatch, or it refuses the job.
    """
    sbatch = shutil.which("sbatch")
    if sbatch is None:
        raise UserError("--launcher slurm: there is no sbatch here; run it on the cluster's login node")
    script = folder / SCRIPT_FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(script, batch_script(name, folder, launch, processes, sys.argv[1:]))
    except OSError as error:
        raise UserError(f"the run folder {folder} cannot be written: {in_words(error)}") from error
    done = subprocess.run([sbatch, str(script)], capture_output=True, text=True, check=False)
    if done.returncode:
        said = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise UserError(f"sbatch refused {script}: {said}")
    return done.stdout.strip()


def batch_script(name: str, folder: Path, launch: Launch, processes: int | None, arguments: list[str]) -> str:
    """The script.

    Args:
        name: the job's.
        folder: where its output goes.
        launch: nodes, processes and Slurm's options.
        processes: for each node; None for one a GPU.
        arguments: of `platform`, with `--launcher`.
    """
    launcher = "local" if processes is None else f"local:{processes}"
    platform = [sys.executable, "-m", "opendllm.core", *arguments_without_launcher(arguments)]
    command = shlex.join([*platform, "--launcher", launcher])
    head = ""
    if launch.nodes > 1:
        head = 'head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)\n'
        command += f' --set launch.rendezvous.endpoint="$head":{_PORT}'
    # sbatch reads quotes as a shell does.
    given = {key: shlex.quote(str(value)) for key, value in _options(name, folder, launch).items()}
    options = "".join(f"#SBATCH --{key}={value}\n" for key, value in given.items())
    return (
        f"#!/bin/bash\n{options}set -eu\n{_CPUS}cd {shlex.quote(str(Path.cwd()))}\n{head}"
        f"srun --kill-on-bad-exit=1 {command}\n"
    )


def _options(name: str, folder: Path, launch: Launch) -> Mapping[str, str | int]:
    slurm = launch.slurm or Slurm()
    named = {"partition": slurm.partition, "account": slurm.account, "time": slurm.time}
    return {
        "job-name": name,
        "nodes": launch.nodes,
        "ntasks-per-node": 1,
        "output": f"{str(folder.absolute()).replace('%', '%%')}/slurm-%j.log",
        "signal": f"TERM@{SECONDS_TO_SAVE}",
        **{key: value for key, value in named.items() if value is not None},
        **slurm.options,
    }
