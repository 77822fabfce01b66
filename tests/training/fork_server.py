"""A process that has imported everything, and forks one for each `platform` command that it is told.

Reads JSON lines from standard input, answers each with one on the descriptor that its argument numbers:
{"cwd", "arguments", "ranks", "log", "signal": [number, event, ...] or null, "count": file or null}
    starts `platform ARGUMENTS` in as many processes; answers {"pids": [...]}.
{"wait": pids}
    answers {"codes": [...]}, negative where a signal killed one.

`signal` makes each process send itself that signal at its event-th call or return of a function, C
functions among them: the same moment each time, but for a few; with several events several times. A
negative event is the moment right after a save renames a folder for the -event-th time. `count` makes it
write down how many events there were, at which saves began and ended, and how many folders they renamed.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import socket
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import deepspeed.ops  # noqa: F401
import transformers.models.llama.modeling_llama
import transformers.models.qwen2.modeling_qwen2  # noqa: F401

import opendllm.core.evaluation.evaluate_variant
import opendllm.core.evaluation.loaded_checkpoint
import opendllm.core.training.train_variant  # noqa: F401
from opendllm.core.cli.main import main
from opendllm.registries.discovery import installed_plugins


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def watch(at: tuple[int, ...] | None, count: str | None) -> None:
    """Count the main thread's function calls and returns from here on."""
    number = 0
    saves: list[int] = []
    renames = 0

    def event(frame: FrameType, kind: str, function: Any) -> None:
        nonlocal number, renames
        number += 1
        if kind in ("call", "return") and frame.f_code.co_name == "save_step":
            saves.append(number)
        renamed = kind == "c_return" and function is os.rename and len(saves) % 2 == 1
        renames += renamed
        if at is not None and (number in at[1:] or (renamed and -renames in at[1:])):
            os.kill(os.getpid(), at[0])

    def write() -> None:
        assert count is not None
        sys.setprofile(None)
        Path(count).write_text(json.dumps({"total": number, "saves": saves, "renames": renames}))

    if count is not None:
        atexit.register(write)
    sys.setprofile(event)


def run(request: dict[str, Any], rank: int, port: int) -> None:
    """Be one process of a command; never returns."""
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for descriptor in (1, 2):
        os.dup2(log, descriptor)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup's processes ignore it
    os.chdir(request["cwd"])
    if request["ranks"] > 1:
        os.environ.update(
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE=str(request["ranks"]),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
        )
    sys.argv = ["platform", *request["arguments"]]
    sys.stdin = open(os.devnull)  # noqa: PTH123, SIM115
    code = 1
    try:
        if request["signal"] or request["count"]:
            watch(request["signal"], request["count"])
        main()
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else 0
    finally:
        sys.setprofile(None)
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def answer(request: dict[str, Any]) -> dict[str, Any]:
    if "wait" in request:
        return {"codes": [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in request["wait"]]}
    port = free_port()
    pids = []
    for rank in range(request["ranks"]):
        pid = os.fork()
        if pid == 0:
            run(request, rank, port)
        pids.append(pid)
    return {"pids": pids}


installed_plugins()
signal.signal(signal.SIGINT, signal.SIG_IGN)
answers = os.fdopen(int(sys.argv[1]), "w")
for line in sys.stdin:
    print(json.dumps(answer(json.loads(line))), file=answers, flush=True)
