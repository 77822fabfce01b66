"""What the machine does to a program or its judge is no wrong answer: it is judged again, or refused."""

from __future__ import annotations

import ctypes
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from opendllm.core.sandbox import assertion_judge, case_run, levels, linux, sandbox
from opendllm.core.sandbox.cases import Case, Trial
from opendllm.core.sandbox.launch import Child, ForkServerHandle, LevelUnavailableError
from opendllm.core.sandbox.limits import Limits
from opendllm.core.sandbox.sandbox import ATTEMPTS, Sandbox
from opendllm.registries.benchmarks import IsolationLevel
from opendllm.registries.errors import UserError

SCRIPT = Path(assertion_judge.__file__).read_text()
RIGHT = "def f():\n    return 1"
Signalled = Callable[[Sandbox, str, int, int], list[int]]


@pytest.fixture(params=["rlimits", "namespaces"])
def level(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> IsolationLevel:
    """The only one that sandboxes are started at."""
    chosen: IsolationLevel = request.param
    try:
        ForkServerHandle(chosen).close()
    except LevelUnavailableError as error:
        pytest.skip(f"this machine has no {chosen}: {error}")
    monkeypatch.setattr(levels, "LEVELS", (chosen,))
    return chosen


@pytest.fixture
def signalled(monkeypatch: pytest.MonkeyPatch) -> Signalled:
    """Send a signal to so many of a sandbox's next children of a role; returns those that were started."""

    def begin(of: Sandbox, role: str, number: int, times: int) -> list[int]:
        server, started = of._server, []
        fork = getattr(server, role)

        def forked(*arguments: object, **named: object) -> Child:
            child: Child = fork(*arguments, **named)
            started.append(child.process)
            if len(started) <= times:
                os.kill(seen_from_here(server, child), number)
            return child

        monkeypatch.setattr(server, role, forked)
        return started

    return begin


def seen_from_here(server: ForkServerHandle, child: Child) -> int:
    """A child's number in these namespaces, by the one it has in its server's."""
    for process in psutil.Process(server._process.pid).children(recursive=True):
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        numbers = next(line.split()[1:] for line in lines if line.startswith("NSpid:"))
        if numbers[min(1, len(numbers) - 1)] == str(child.process):
            return int(process.pid)
    raise AssertionError(f"there is no child {child.process}")


def case(program: str, seconds: float = 60.0) -> Case:
    """The program after a right one."""
    data = {"gold": RIGHT, "tests": "assert f() == 1"}
    return Case("case", SCRIPT, data, (Trial(RIGHT, seconds=seconds), Trial(program, seconds=seconds)))


def reasons(started: Sandbox, *cases: Case) -> list[list[str]]:
    return [[verdict.reason for verdict in found] for found in started.judge(cases)]


@pytest.mark.parametrize("role", ["candidate", "judge"])
def test_what_is_killed_is_judged_again(level: IsolationLevel, signalled: Signalled, role: str) -> None:
    done: list[int] = []
    with Sandbox(level, workers=2) as started:
        signalled(started, role, signal.SIGKILL, 1)
        cases = [case(RIGHT), case("def f(): return 2")]
        found = started.judge(cases, lambda number, _: done.append(number))
    said = [[verdict.reason for verdict in row] for row in found]
    assert said == [["passed", "passed"], ["passed", "AssertionError"]]
    assert done == [1, 2]


def test_a_program_that_is_killed_each_time_has_died_where_memory_did_not_run_out(
    level: IsolationLevel, signalled: Signalled, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Sandbox(level, workers=1) as started:
        candidates = signalled(started, "candidate", signal.SIGKILL, 100)
        monkeypatch.setattr(sandbox, "out_of_memory_kills", lambda: 7)
        assert reasons(started, case(RIGHT)) == [["died", "died"]]
        assert len(candidates) == ATTEMPTS + 1
        monkeypatch.setattr(sandbox, "out_of_memory_kills", lambda: len(candidates))
        with pytest.raises(UserError, match=r"a program of case was killed 3 times.* or lower memory_gib"):
            reasons(started, case(RIGHT))


def test_a_judge_that_is_killed_each_time_is_an_error(level: IsolationLevel, signalled: Signalled) -> None:
    with Sandbox(level, workers=1) as started:
        signalled(started, "judge", signal.SIGKILL, 100)
        with pytest.raises(UserError, match="the judge of case was killed 3 times"):
            reasons(started, case(RIGHT))


def test_a_program_that_hangs_up_has_itself_to_blame(signalled: Signalled) -> None:
    with Sandbox(workers=1) as started:
        candidates = signalled(started, "candidate", signal.SIGKILL, 0)
        assert reasons(started, case("import os, time\nos.close(3)\ntime.sleep(60)")) == [["passed", "died"]]
        assert len(candidates) == 2


def test_a_program_that_did_not_run_in_its_time_is_judged_again_where_nothing_ran(
    signalled: Signalled, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Sandbox(workers=1) as started:
        candidates = signalled(started, "candidate", signal.SIGSTOP, 1)
        assert reasons(started, case(RIGHT, seconds=0.2))[0][0] == "timed out"  # it alone was stopped
        monkeypatch.setattr(
            case_run, "STALL_SECONDS", -100.0
        )  # every wait counts as one in which nothing ran
        candidates.clear()
        assert reasons(started, case(RIGHT, seconds=2.0)) == [["passed", "passed"]]
        assert len(candidates) >= 3
        endless = reasons(started, case("while True: pass", seconds=0.3))[0]
        assert endless[1] == "timed out"  # and judged to an end


def test_without_room_for_what_programs_may_write_none_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(levels, "LEVELS", ("rlimits",))
    with pytest.raises(UserError, match=r"a program may write .* has no room for that \(TMPDIR=FOLDER"):
        Sandbox("rlimits", limits=Limits(file_bytes=1 << 60))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    mount = shutil.which("mount")
    if mount is None or os.geteuid():
        pytest.skip("a disk of a certain size needs mount and root")
    command = [mount, "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(tmp_path)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("this machine mounts no tmpfs")
    yield tmp_path
    ctypes.CDLL(None).umount2(os.fsencode(tmp_path), 2)


def test_a_disk_that_fills_up_while_programs_run_fails_none_of_them(
    small_disk: Path, signalled: Signalled, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(levels, "LEVELS", ("rlimits",))
    monkeypatch.setenv("TMPDIR", str(small_disk))
    writes = "def f():\n    with open('x', 'w') as file: file.write('x' * 1000)\n    return 1"
    with Sandbox("rlimits", workers=1, limits=Limits(file_bytes=1 << 20)) as started:
        assert reasons(started, case(writes)) == [["passed", "passed"]]
        fork = started._server.candidate

        def filled(*arguments: object, **named: object) -> Child:
            child: Child = fork(*arguments, **named)  # type: ignore[arg-type]
            with suppress(OSError):
                (small_disk / "other").write_bytes(bytes(4 << 20))
            return child

        monkeypatch.setattr(started._server, "candidate", filled)
        with pytest.raises(UserError, match=r"less room than the programs may use .* TMPDIR=FOLDER"):
            reasons(started, Case("case", SCRIPT, {"gold": RIGHT, "tests": "f()"}, (Trial(writes),)))


def test_a_server_that_gets_no_descriptor_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(levels, "LEVELS", ("rlimits",))
    with Sandbox("rlimits", workers=1) as started:
        resource.prlimit(started._server._process.pid, resource.RLIMIT_NOFILE, (4, 4))
        with pytest.raises(UserError, match=r"no program can be started: .*Too many open files"):
            reasons(started, case(RIGHT))


@pytest.mark.parametrize(
    ("kind", "command"), [("AS", r"ulimit -v.* or set memory_gib lower"), ("FSIZE", "ulimit -f")]
)
def test_a_shell_that_leaves_programs_less_than_they_may_use_is_refused(kind: str, command: str) -> None:
    text = (
        "import resource, sys\nfrom opendllm.core.sandbox.sandbox import Sandbox\n"
        f"resource.setrlimit(resource.RLIMIT_{kind}, (2 ** 30, 2 ** 30) if '{kind}' == 'AS' else (9, 9))\n"
        "try: Sandbox('rlimits')\nexcept Exception as error: sys.exit(str(error))"
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.search(command, done.stderr), done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start another user's process")
def test_a_user_s_other_threads_are_counted() -> None:
    nobody = 1_879_048_190  # owns nothing else
    assert linux.threads_of(nobody) == 0
    with subprocess.Popen(["sleep", "60"], user=nobody, cwd="/") as other:
        assert linux.threads_of(nobody) == 1
        other.kill()
