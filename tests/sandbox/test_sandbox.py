"""The sandbox: calls across processes, its levels, and what it reports."""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from opendllm.core.sandbox import assertion_judge, levels
from opendllm.core.sandbox.cases import Case, Trial, Verdict
from opendllm.core.sandbox.limits import Limits
from opendllm.core.sandbox.sandbox import Sandbox
from opendllm.registries.errors import UserError

SCRIPT = Path(assertion_judge.__file__).read_text()
SECONDS = 30.0
NO_RESERVE = 0x4000
"""MAP_NORESERVE, which Python 3.11 does not name."""


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(workers=2) as started:
        yield started


def judged(sandbox: Sandbox, program: str, tests: str, gold: str | None = None) -> Verdict:
    case = Case("case", SCRIPT, {"gold": gold or program, "tests": tests}, (Trial(program, seconds=SECONDS),))
    return sandbox.judge([case])[0][0]


@pytest.mark.parametrize(
    ("program", "tests"),
    [
        ("def f(a, b=2, *c, **d): return [a, b, c, d]", "assert f(1, 3, 4, k=5) == [1, 3, (4,), {'k': 5}]"),
        ("def f(v): v.append(9); v[0] = 0", "v = [1, 2]\nassert f(v) is None\nassert v == [0, 2, 9]"),
        ("def f(d): d.pop('a'); d['b'] = {1}", "d = {'a': 1}\nf(d)\nassert d == {'b': {1}}"),
        ("def f(s): s.add(3)", "s = {1}\nt = s\nf(s)\nassert t == {1, 3}"),
        ("def f(x): raise KeyError(x)", "try: f(1)\nexcept KeyError: pass\nelse: assert False"),
        (
            "class Odd(ValueError): pass\ndef f(x): raise Odd(x)",
            "try: f(1)\nexcept ValueError as error: assert '1' in str(error)\nelse: assert False",
        ),
        ("def f(): yield from 'ab'", "assert list(f()) == ['a', 'b']\nassert next(f()) == 'a'"),
        ("def f(x): return map(str, x)", "assert sorted(f([2, 1])) == ['1', '2']"),
        (
            "import re\ndef f(x): return re.match('a', x)",
            "assert f('a')\nassert not f('b')\nassert f('b') is None",
        ),
        ("from collections import Counter\ndef f(x): return Counter(x)", "assert f('aa') == {'a': 2}"),
        (
            "class P:\n  def __init__(self, x): self.x = x\n  def twice(self): return 2 * self.x\n"
            "  def __len__(self): return 7\ndef f(p): return p.x",
            "p = P(3)\nassert f(p) == p.x == 3\np.x = 4\nassert f(p) == 4 and p.twice() == 8 and len(p) == 7",
        ),
        ("def f(g, x): return g(x)\ndef g(x): return x + 1", "assert f(g, 1) == 2"),
        ("TABLE = {1: (2,)}\ndef f(): return TABLE", "assert TABLE == f() == {1: (2,)}"),
        ("import math\ndef f(): return math.pi", "assert math.isclose(f(), 3.14159, rel_tol=1e-3)"),
        ("def sum(a, b): return a - b", "assert sum(5, 2) == 3"),
        ("def f(x): return x", "assert [f(x) for x in (1, 'a', None)] == [1, 'a', None]"),
        ("x = input\ndef f(): return 3 ** 5000", "assert f() == 3 ** 5000"),
    ],
)
def test_tests_see_what_they_would_see_in_one_process(sandbox: Sandbox, program: str, tests: str) -> None:
    verdict = judged(sandbox, program, tests)
    assert verdict == Verdict(frozenset({"tests"}), "passed")


@pytest.mark.parametrize(
    ("program", "tests", "reason"),
    [
        ("def f(): return 1", "assert f() == 2", "AssertionError"),
        ("def g(): return 1", "assert f() == 1", "NameError"),
        ("def f(): return 1", "assert f(2) == 1", "TypeError"),
        ("def f(): return 1 / 0", "assert f() == 1", "ZeroDivisionError"),
        ("def f(): return object()", "v = f()\nassert v == v", "AssertionError"),
        ("def f(): return (1,)", "assert f() == [1]", "AssertionError"),
        ("import os\ndef f(): os._exit(0)", "try: f()\nexcept BaseException: pass", "died"),
        ("def f(): return g()", "assert f() == 1", "NameError"),
        ("def f(): pass\nmath = None", "assert math.isclose(1, 1)\nassert f() == 1", "AssertionError"),
    ],
)
def test_a_failure_says_why(sandbox: Sandbox, program: str, tests: str, reason: str) -> None:
    gold = "import math\ndef f(): return 1"
    verdict = judged(sandbox, program, tests, gold)
    assert not verdict.passed
    assert verdict.reason.startswith(reason)


def test_a_test_that_swallows_everything_does_not_save_a_dead_candidate(sandbox: Sandbox) -> None:
    tests = "for _ in range(3):\n    try: f()\n    except: pass"
    assert judged(sandbox, "import os\ndef f(): os.abort()", tests, "def f(): pass").reason == "died"


def test_time_is_bounded_and_the_next_trial_is_fresh(sandbox: Sandbox) -> None:
    good = "state = []\ndef f():\n    state.append(1)\n    return len(state)"
    trials = tuple(Trial(text, seconds=s) for text, s in (("while True: pass", 0.5), (good, 30), (good, 30)))
    case = Case("case", SCRIPT, {"gold": good, "tests": "assert f() == 1"}, trials)
    assert [verdict.reason for verdict in sandbox.judge([case])[0]] == ["timed out", "passed", "passed"]


def test_descriptors_that_a_program_hands_over_do_not_starve_its_judge(sandbox: Sandbox) -> None:
    hostile = (
        "import os, socket\nchannel = socket.socket(fileno=3)\nnothing = [os.open('/dev/null', 0)] * 8\n"
        "for byte in b'\\0\\0\\0\\x0c{\"value\":{}}' * 4: socket.send_fds(channel, [bytes([byte])], nothing)"
    )
    honest = "def f(): return 1"
    tests = "import os\nos.close(os.open('/dev/null', 0))\nos.close(os.open('/dev/null', 0))\nassert f() == 1"
    trials = tuple(Trial(text, seconds=SECONDS) for text in (hostile, honest))
    found = sandbox.judge([Case("case", SCRIPT, {"gold": honest, "tests": tests}, trials)])[0]
    assert [bool(verdict.passed) for verdict in found] == [False, True]


def test_threads_of_one_program_are_not_counted_for_another(sandbox: Sandbox) -> None:
    if sandbox.level == "rlimits":
        pytest.skip("there all programs belong to one user")
    many = (
        "import threading\nready = threading.Event()\ntry:\n"
        "    while True: threading.Thread(target=ready.wait, daemon=True).start()\n"
        "except RuntimeError: pass\n{then}"
    )
    waits = many.format(then="import time\ntime.sleep(60)")
    alone = many.format(then="def f(): return threading.active_count() > 200\n")
    cases = [
        Case(
            str(n), SCRIPT, {"gold": "def f(): return True", "tests": "assert f()"}, (Trial(text, seconds=s),)
        )
        for n, (text, s) in enumerate(((waits, 5.0), (alone, SECONDS)))
    ]
    assert [found[0].reason for found in sandbox.judge(cases)] == ["timed out", "passed"]


def test_a_judge_that_is_kept_busy_is_not_waited_for_longer_than_its_candidate(sandbox: Sandbox) -> None:
    script = (
        "def judge(candidate, data, part):\n    candidate.limit(0.1)\n    candidate.load()\n"
        "    while True: pass"
    )
    trial = Trial("", seconds=10_000.0)  # the suite would hang, were it waited for
    assert sandbox.judge([Case("case", script, {}, (trial,))])[0][0].reason == "timed out"


def test_a_slow_problem_gives_programs_more_time(sandbox: Sandbox) -> None:
    slow = "import time\ndef f():\n    time.sleep(0.5)\n    return 1"
    slower = slow.replace("0.5", "60")
    trials = tuple(Trial(text, seconds=600.0) for text in (slow, slower))
    data = {"gold": slow, "tests": "assert f() == 1", "seconds": 0.2}
    found = sandbox.judge([Case("case", SCRIPT, data, trials)])[0]
    assert [verdict.reason for verdict in found] == ["passed", "timed out"]


def test_a_problem_whose_own_solution_fails_is_said_to_be_at_fault(sandbox: Sandbox) -> None:
    verdict = judged(sandbox, "def f(): return 1", "assert f() == 1", gold="1 / 0")
    assert verdict.unscorable
    assert "case can't be scored here" in verdict.reason
    assert "ZeroDivisionError" in verdict.reason


def test_verdicts_keep_the_order_of_the_cases(sandbox: Sandbox) -> None:
    cases = [
        Case(
            str(n),
            SCRIPT,
            {"gold": "def f(): pass", "tests": f"assert f() == {n % 3}"},
            (Trial("def f(): return 0", seconds=SECONDS), Trial("def f(): return 1", seconds=SECONDS)),
        )
        for n in range(12)
    ]
    done: list[int] = []
    found = [[v.reason == "passed" for v in row] for row in sandbox.judge(cases, lambda n, _: done.append(n))]
    assert found == [[n % 3 == 0, n % 3 == 1] for n in range(12)]
    assert done == list(range(1, 13))


def test_a_large_parent_does_not_starve_the_programs() -> None:
    with (
        mmap.mmap(-1, 16 << 30, flags=mmap.MAP_PRIVATE | NO_RESERVE),
        Sandbox(workers=1, limits=Limits(memory_bytes=256 << 20)) as sandbox,
    ):
        assert judged(sandbox, "def f(): return len(bytes(10**7))", "assert f() == 10**7").reason == "passed"
        assert (
            judged(sandbox, "def f(): return len(bytes(10**9))", "assert f() == 10**9").reason
            == "MemoryError"
        )


def test_the_server_loads_nothing_heavy(sandbox: Sandbox) -> None:
    program = "import sys\nloaded = sorted({name.split('.')[0] for name in sys.modules})"
    tests = (
        "assert not set(loaded) & {'torch', 'numpy', 'pydantic', 'transformers', 'typer', 'pickle'}, loaded"
    )
    assert judged(sandbox, program, tests, "loaded = []").reason == "passed"


def test_a_weaker_level_than_asked_for_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")  # where no bwrap is
    with pytest.raises(UserError) as caught:
        Sandbox("bubblewrap")
    assert "no sandbox as strong as bubblewrap" in str(caught.value)
    assert "there is no bwrap command" in str(caught.value)
    assert "isolation namespaces accepts a weaker one" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_level_that_does_not_hold_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A probe that finds what it should not find makes the next level's turn."""
    monkeypatch.setattr(levels, "LEVELS", ("rlimits", "namespaces"))
    monkeypatch.setitem(levels._WANTED, "namespaces", {"process": 4711})
    with Sandbox("rlimits", workers=1) as sandbox:
        assert sandbox.level == "rlimits"
        assert sandbox.described.startswith("rlimits")
    with pytest.raises(UserError, match=r"namespaces: a probe got out: AssertionError: \{'process': 1\}"):
        Sandbox("namespaces")


def test_a_sandbox_that_breaks_down_says_so() -> None:
    with Sandbox(workers=2) as sandbox:
        os.kill(sandbox._server._process.pid, signal.SIGKILL)
        cases = [Case("case", SCRIPT, {"gold": "def f(): pass", "tests": "f()"}, (Trial("def f(): pass"),))]
        with pytest.raises(UserError, match=r"the sandbox \(\w+\) stopped working"):
            sandbox.judge(cases * 2000)  # its descendants take a moment to follow


def test_the_sandbox_dies_with_the_process_that_started_it() -> None:
    text = (
        "import sys, time\nfrom opendllm.core.sandbox.sandbox import Sandbox\n"
        "s = Sandbox(workers=1)\nprint(s._server._process.pid, flush=True)\ntime.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        server = int(parent.stdout.readline())
        parent.kill()
    deadline = time.monotonic() + 30
    while Path(f"/proc/{server}").exists() and time.monotonic() < deadline:
        if Path(f"/proc/{server}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
            break  # dead, and its new parent hasn't noticed yet
        time.sleep(0.05)
    else:
        assert not Path(f"/proc/{server}").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_programs_of_root_run_as_nobody(sandbox: Sandbox) -> None:
    """Outside, a confined process belongs to a user who owns nothing."""
    if sandbox.level != "namespaces":
        pytest.skip("bubblewrap maps the user that starts it")
    server = sandbox._server._process.pid
    inside = Path(f"/proc/{server}/task/{server}/children").read_text().split()[0]
    assert Path(f"/proc/{inside}/uid_map").read_text().split()[1] != "0"
