"""What is stuck and asked to stop ends all the same: real processes, blocked where no signal handler runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from opendllm.core.launching.stopping import stopping_at_once
from opendllm.core.launching.watchdog import Killer, seconds_to_stop
from opendllm.registries.errors import UserError
from tests.children import by_rank, runs

LONGEST = 120.0
"""Seconds after which a test gives up on a machine however busy."""
BLOCK = """
    import ctypes
    def block(library):
        mutex = ctypes.create_string_buffer(64)
        library.pthread_mutex_lock(mutex)
        print("blocked", flush=True)
        library.pthread_mutex_lock(mutex)  # never returns, whatever signal comes
"""
STOP = """
    from opendllm.core.launching.stopping import stop_requests, stopping_at_once
"""


@pytest.fixture(autouse=True)
def tidy() -> Iterator[None]:
    yield
    for group in groups:
        with suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
    groups.clear()


groups: list[int] = []


def start(script: str, seconds: str = "0.5", **variables: str) -> subprocess.Popen[str]:
    """A process of its own session that has said its first word, and sleeps."""
    environment = os.environ | {"OPENDLLM_SECONDS_TO_STOP": seconds} | variables
    parts = "".join(textwrap.dedent(part) for part in (BLOCK, STOP, script))
    process = subprocess.Popen(
        [sys.executable, "-c", parts],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=environment,
    )
    groups.append(process.pid)
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "blocked"
    while psutil.Process(process.pid).status() != psutil.STATUS_SLEEPING:  # on its way into the call
        time.sleep(0.01)
    return process


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """(exit code, what it said on both streams)."""
    said = process.communicate(timeout=LONGEST)
    return process.returncode, "".join(said)


def test_a_step_that_never_returns_ends_after_sigterm_and_says_what_is_saved() -> None:
    process = start("""
        with stop_requests(lambda: "step 4 is saved in there"):
            block(ctypes.CDLL(None))
    """)
    process.terminate()
    code, said = ended(process)
    assert code == 143
    assert "ended without saving the step that was under way, which did not end in time" in said
    assert "step 4 is saved in there; resume with: platform" in said


def test_what_never_returns_before_training_ends_too() -> None:
    process = start("""
        with stopping_at_once():
            block(ctypes.CDLL(None))
    """)
    process.terminate()
    assert ended(process)[0] == 143


def test_the_launcher_kills_a_process_in_which_no_thread_can_run_and_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A C call that keeps the interpreter's lock."""
    process = start(
        """
        import subprocess, sys
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
        with stop_requests(lambda: ""):
            block(ctypes.PyDLL(None))
        """
    )
    [child] = psutil.Process(process.pid).children()
    monkeypatch.setenv("OPENDLLM_SECONDS_TO_STOP", "0.5")
    killer = Killer(tmp_path, lambda: [process.pid] if process.poll() is None else [])
    process.terminate()
    killer.begin()
    killer.begin()
    assert ended(process)[0] == -signal.SIGKILL
    assert killer.killed
    psutil.wait_procs([child], timeout=LONGEST)
    assert not runs(child)


@pytest.mark.parametrize(
    ("before", "under_way", "waited_for"),
    [
        ("stop.watchdog.expect(0.0)", "nullcontext()", False),
        ("stop.watchdog.expect(1000.0)", "nullcontext()", True),
        ("measure(0.0)", "stop.watchdog.measuring()", False),
        ("measure(2.0)", "stop.watchdog.measuring()", True),
        ("measure(2.0)", "nullcontext()", False),
    ],
)
def test_what_takes_as_long_as_its_like_is_waited_for(before: str, under_way: str, waited_for: bool) -> None:
    """A step as long as the longest before it, a measurement as long as another measurement."""
    process = start(f"""
        import time
        from contextlib import nullcontext
        with stop_requests(lambda: "") as stop:
            def measure(seconds):
                with stop.watchdog.measuring():
                    time.sleep(seconds)
            {before}
            with {under_way}:
                print("blocked", flush=True)
                while not stop.made:
                    time.sleep(0.01)
                time.sleep(1.5)
            print("ended by itself")
    """)
    process.terminate()
    code, said = ended(process)
    assert (code, "ended by itself" in said) == ((0, True) if waited_for else (143, False))


@pytest.mark.parametrize("written", [True, False])
def test_what_is_being_saved_is_waited_for_while_more_of_it_is_there(tmp_path: Path, written: bool) -> None:
    process = start(
        f"""
        import time
        from pathlib import Path
        with stop_requests(lambda: "") as stop, stop.watchdog.saving(Path({str(tmp_path)!r})):
            print("blocked", flush=True)
            while not stop.made:
                time.sleep(0.01)
            for part in range(60):
                time.sleep(0.1)
                if {written}:
                    with Path({str(tmp_path / "weights")!r}).open("a") as file:
                        file.write("more")
            print("saved")
        """,
        seconds="3",
        TORCHELASTIC_ERROR_FILE=str(tmp_path / "0" / "error.json"),
    )
    (tmp_path / "0").mkdir()
    process.terminate()
    code, said = ended(process)
    assert (code, "saved" in said) == ((0, True) if written else (143, False))
    assert float((tmp_path / "0" / "deadline").read_text())


def test_a_forked_processs_sigterm_is_its_own() -> None:
    process = start("""
        import os, signal, time
        with stop_requests(lambda: ""):
            print("blocked", flush=True)
            child = os.fork()
            if not child:
                while True:
                    time.sleep(1)
            os.kill(child, signal.SIGTERM)
            time.sleep(1.5)
            os.kill(child, signal.SIGKILL)
            print("ended by itself")
    """)
    code, said = ended(process)
    assert (code, "ended by itself" in said) == (0, True)


@pytest.mark.parametrize(("given", "found"), [(None, 60.0), ("", 60.0), ("25", 25.0), ("0.5", 0.5)])
def test_the_environment_says_how_long_stopping_may_take(
    monkeypatch: pytest.MonkeyPatch, given: str | None, found: float
) -> None:
    monkeypatch.delenv("OPENDLLM_SECONDS_TO_STOP", raising=False)
    if given is not None:
        monkeypatch.setenv("OPENDLLM_SECONDS_TO_STOP", given)
    assert seconds_to_stop() == found


@pytest.mark.parametrize("given", ["30s", "5 min", "0", "-1", "inf", "nan"])
def test_what_is_no_number_of_seconds_is_refused_before_anything_is_done(
    monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    """And is not a minute without a word: the machine may go before it is over."""
    monkeypatch.setenv("OPENDLLM_SECONDS_TO_STOP", given)
    said = f"OPENDLLM_SECONDS_TO_STOP is {given!r}: give it a number of seconds"
    with pytest.raises(UserError, match=said), stopping_at_once():
        raise AssertionError("began")


@pytest.mark.slow
def test_a_collective_whose_peer_has_stopped_ends_with_its_launcher(
    workspace: Path, curve: Callable[[Path], list[float]]
) -> None:
    arguments = [
        "run", "short.yaml", "--only", "train", "--set", "train.steps=100000", "--launcher", "local:2",
    ]  # fmt: skip
    launched = subprocess.Popen(
        [sys.executable, "-m", "opendllm.core", *arguments],
        cwd=workspace,
        env=os.environ | {"OMP_NUM_THREADS": "1", "OPENDLLM_SECONDS_TO_STOP": "3"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    groups.append(launched.pid)
    log = workspace / "runs" / "short" / "default" / "train.jsonl"
    while not (log.is_file() and log.read_text().count("\n") > 2):
        assert launched.poll() is None, launched.communicate()
        time.sleep(0.05)
    ranks = by_rank(psutil.Process(launched.pid))
    groups.extend(rank.pid for rank in ranks.values())
    ranks["1"].send_signal(signal.SIGSTOP)
    launched.send_signal(signal.SIGTERM)
    out, err = launched.communicate(timeout=LONGEST)
    assert launched.returncode == 143, (out, err)
    assert "ended without saving the step that was under way" in out + err
    assert "resume with: platform run short.yaml" in out + err
    assert not any(runs(rank) for rank in ranks.values())
    assert curve(workspace / "runs" / "short")
