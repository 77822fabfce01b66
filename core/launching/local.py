"""`--launcher local`: one node's processes, by torch's elastic agent."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from opendllm.core.foundation.cores import usable_cores
from opendllm.core.launching.launcher import COMMAND_VARIABLE, arguments_without_launcher, this_command
from opendllm.core.launching.stopping import ENDED_WITHOUT_SAVING, EXIT_CODES, Stopped, StopRequest
from opendllm.core.launching.watchdog import Killer, unwatched
from opendllm.core.manifest.schema import Launch
from opendllm.registries.errors import UserError

if TYPE_CHECKING:
    import psutil
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

NOTHING_TO_SAVE = "stopped before training began"


class WorkerFailedError(UserError):
    """A process of the run ended badly; the message says which, and how."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def run_here(launch: Launch, processes: int) -> None:
    """Run this same command in `processes` processes, and wait for them.

    SIGTERM and Ctrl-C are handed on to them, so that they save and end well.

    Args:
        launch: nodes and rendezvous.
        processes: on this node.

    Raises:
        WorkerFailedError: one of them failed; the others have ended too.
        UserError: the nodes can't find each other.
        Stopped: this process was asked to stop, and they have.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous.api import RendezvousError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ[COMMAND_VARIABLE] = this_command()
    os.environ.setdefault("OMP_NUM_THREADS", str(threads_each(processes)))
    endpoint, address, settings = _rendezvous(launch)
    logs = tempfile.mkdtemp(prefix="open-dllm-launcher-")
    config = LaunchConfig(
        min_nodes=launch.nodes,
        max_nodes=launch.nodes,
        nproc_per_node=processes,
        logs_specs=DefaultLogsSpecs(log_dir=logs),
        run_id="open-dllm",
        rdzv_backend="c10d",
        rdzv_endpoint=endpoint,
        rdzv_configs=settings,
        max_restarts=0,
        local_addr=address,
        # Neither SIGTERM nor SIGINT: torch's handler kills the processes after half a minute and calls that
        # a failure.
        signals_to_handle="SIGHUP",
    )
    arguments = ["-m", "opendllm.core", *arguments_without_launcher(sys.argv[1:])]
    killer = Killer(Path(logs), lambda: [child.pid for child in _children()])
    with unwatched(), _signals_to_children(killer) as request:
        try:
            elastic_launch(config, sys.executable)(*arguments)
        except ChildFailedError as error:
            rank, failure = error.get_first_failure()
            if killer.killed or (request.made and failure.exitcode in EXIT_CODES):
                raise Stopped(f"{ENDED_WITHOUT_SAVING}; checkpoints are whole", request.exit_code) from error
            if request.made and failure.exitcode == -signal.SIGTERM:
                raise Stopped(NOTHING_TO_SAVE, request.exit_code) from error
            if request.insisted:  # whichever way each of them ended
                raise Stopped("", request.exit_code) from error
            raise _failure(rank, failure) from error
        except SignalException as error:  # the terminal is gone
            raise KeyboardInterrupt from error
        except RendezvousError as error:
            raise UserError(
                f"the {launch.nodes} nodes did not meet at {endpoint} ({error}): does each of them run this "
                f"command, and is launch.rendezvous.endpoint an address of one of them?"
            ) from error
        finally:
            shutil.rmtree(logs, ignore_errors=True)
    if request.made:
        raise Stopped("", request.exit_code)


def threads_each(processes: int) -> int:
    """An equal share of the cores that this job may use, which need not be all of the machine's."""
    return max(1, usable_cores() // processes)


def _rendezvous(launch: Launch) -> tuple[str, str, dict[str, Any]]:
    """(endpoint, this node's address, settings) for torch's rendezvous."""
    if launch.nodes == 1:
        return "localhost:0", "localhost", {}
    if launch.rendezvous is None:
        raise UserError(
            f"launch.nodes is {launch.nodes}: give launch.rendezvous.endpoint, HOST:PORT of the first node"
        )
    endpoint, timeout = launch.rendezvous.endpoint, launch.rendezvous.timeout
    host, _, port = endpoint.rpartition(":")
    try:
        found = socket.getaddrinfo(host, int(port), type=socket.SOCK_DGRAM)
        family, kind, _, _, there = found[0]
        with socket.socket(family, kind) as probe:
            probe.connect(there)  # sends nothing; asks which of our addresses leads there
            own = str(probe.getsockname()[0])
    except OSError as error:
        raise UserError(
            f"launch.rendezvous.endpoint {endpoint} cannot be reached: {error.strerror}"
        ) from error
    # torch compares host names, which fails where a machine has several; the address itself tells.
    is_host = own in {str(address[4][0]) for address in found}
    return endpoint, own, {"is_host": is_host, "timeout": timeout, "join_timeout": timeout}


@contextmanager
def _signals_to_children(killer: Killer) -> Iterator[StopRequest]:
    """Hand on what asks to stop: the children are in sessions of their own, which no terminal reaches."""
    import psutil

    request = StopRequest()

    def hand_on(number: int, frame: FrameType | None) -> None:
        request.insisted |= request.made and number == signal.SIGINT
        request.note(number, frame)
        children = _children()
        if not children:
            raise Stopped(NOTHING_TO_SAVE, request.exit_code)
        killer.begin()
        for child in children:
            with suppress(psutil.NoSuchProcess):  # it ended by itself
                child.send_signal(signal.SIGINT if request.insisted else signal.SIGTERM)

    before = {number: signal.signal(number, hand_on) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _children() -> list[psutil.Process]:
    import psutil

    return list(psutil.Process().children())


def _failure(rank: int, failure: ProcessFailure) -> WorkerFailedError:
    """What the first process that failed wrote down about it, with its rank."""
    if failure.exitcode < 0:
        name = signal.Signals(-failure.exitcode).name
        hint = "; was memory short?" if name == "SIGKILL" else ""
        return WorkerFailedError(
            f"rank {rank} was killed by {name}{hint}: the run ended; its checkpoints are whole, and the same "
            f"command goes on from the last one",
            1,
        )
    said = failure.error_file_data["message"]
    if not isinstance(said, dict):  # it never came as far as to write anything down
        text = f"ended with exit code {failure.exitcode}"
    elif failure.exitcode == UserError.exit_code:
        text = said["message"]
    else:
        text = said["extraInfo"]["py_callstack"]
    lines = (f"rank {rank}: {line}" for line in text.splitlines())
    return WorkerFailedError("\n".join(lines), failure.exitcode)
