"""What is told of a run, and how it is shown: lines, JSON, a sparkline, a file."""

from __future__ import annotations

import io
import json
import os
import queue
import threading
from pathlib import Path

import pytest
from rich.console import Console

from opendllm.core.progress.bars import BarView, sparkline
from opendllm.core.progress.heartbeat import heartbeat
from opendllm.core.progress.lines import JsonView, PlainView, duration
from opendllm.core.progress.progress import Event, Moment, Progress, View
from opendllm.core.progress.status_file import PROGRESS_FILE, StatusFile


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def train_a_little(view: View) -> None:
    """Ten steps of two seconds, with a measurement after the fourth."""
    clock = Clock()
    progress = Progress([view], clock)
    progress.variant("llada", 2, 5)
    with progress.activity("training", 10, "steps") as task:
        for step in range(1, 11):
            clock.now += 2
            task.update(step, loss=4 - step / 10, tokens_per_second=8912.3, utilisation=None)
            if step == 4:
                with progress.activity("measuring the held-out loss"):
                    clock.now += 1
    progress.close(finished=True)


def test_each_activity_gets_a_line_and_one_every_few_seconds_while_it_goes_on() -> None:
    file = io.StringIO()
    train_a_little(PlainView(file))
    assert file.getvalue().splitlines() == [
        "[0:00] llada (2 of 5): training",
        "[0:06] llada (2 of 5): training: 3 of 10 steps, loss 3.700, 8,912 tokens/s, 0:21 left",
        "[0:08] llada (2 of 5): measuring the held-out loss",
        "[0:11] llada (2 of 5): training: 5 of 10 steps, loss 3.500, 8,912 tokens/s, 0:13 left",
        "[0:17] llada (2 of 5): training: 8 of 10 steps, loss 3.200, 8,912 tokens/s, 0:04 left",
        "[0:21] llada (2 of 5): training: 10 of 10 steps, loss 3.000, 8,912 tokens/s",
    ]


def test_json_lines_say_the_same() -> None:
    file = io.StringIO()
    train_a_little(JsonView(file))
    lines = [json.loads(line) for line in file.getvalue().splitlines()]
    assert [(line["activity"], line["done"]) for line in lines if line["activity"] == "training"] == [
        ("training", None), ("training", 3), ("training", 5), ("training", 8), ("training", 10)
    ]  # fmt: skip
    assert lines[1] == {
        "event": "went on", "variant": "llada", "variant_number": 2, "variants": 5, "activity": "training",
        "done": 3, "total": 10, "seconds": 6.0, "seconds_left": 21.0, "loss": 3.7,
        "tokens_per_second": 8912.3,
    }  # fmt: skip


def test_bars_on_a_terminal_show_the_course_of_the_loss() -> None:
    file = io.StringIO()
    train_a_little(BarView(Console(file=file, force_terminal=True, width=160)))
    shown = file.getvalue()
    assert "llada 2/5: training" in shown
    assert sparkline([4 - step / 10 for step in range(1, 11)]) + ", 10 of 10" in shown  # each step once
    assert "10 of 10 steps, loss 3.000, 8,912 tokens/s" in shown


def test_a_sparkline_falls_as_the_loss_does() -> None:
    assert sparkline([5.0]) == ""
    assert sparkline([3.0, 2.0, 1.0]) == "█▅▁"
    assert sparkline([1.0, float("nan"), 1.0]) == "▁▁"
    assert len(sparkline([float(n) for n in range(1000)])) <= 24


def test_what_could_move_a_terminals_cursor_is_spelt_out() -> None:
    file = io.StringIO()
    progress = Progress([PlainView(file)])
    with progress.activity("evaluating \x1b[2J\u202e\u200bx\u2028\r\n\ud83d añ 語"):
        pass
    assert file.getvalue() == "[0:00] evaluating \\x1b[2J\\u202e\\u200bx\\u2028\\x0d\\x0a\\ud83d añ 語\n"


@pytest.mark.parametrize(
    ("seconds", "written"), [(0.4, "0:00"), (65, "1:05"), (3600, "1:00:00"), (86399, "23:59:59")]
)
def test_durations(seconds: float, written: str) -> None:
    assert duration(seconds) == written


def test_the_file_remembers_what_was_cut_off(tmp_path: Path) -> None:
    progress = Progress([StatusFile(tmp_path)])
    with pytest.raises(RuntimeError), progress.activity("training", 10) as task:  # noqa: PT012
        task.update(4, loss=float("nan"))
        raise RuntimeError
    progress.close(finished=False)
    said = json.loads((tmp_path / PROGRESS_FILE).read_text())
    assert (said["activity"], said["done"], said["total"]) == ("training", 4, 10)
    assert (said["closed"], said["finished"]) == (True, False)
    assert "loss" not in said


def test_a_run_that_is_refused_leaves_the_file_of_the_one_at_work(tmp_path: Path) -> None:
    (tmp_path / PROGRESS_FILE).write_text("{}")
    Progress([StatusFile(tmp_path)]).close(finished=False)
    assert (tmp_path / PROGRESS_FILE).read_text() == "{}"


def test_a_full_disk_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / PROGRESS_FILE).mkdir()  # nothing can take its place
    with Progress([StatusFile(tmp_path)]).activity("training") as task:
        task.update(1)


class Timer:
    """Beats when it is told to."""

    def __init__(self) -> None:
        self.due: queue.Queue[bool] = queue.Queue()
        self.waiting: queue.Queue[threading.Thread] = queue.Queue()

    def __call__(self, over: threading.Event, seconds: float) -> bool:
        self.waiting.put(threading.current_thread())
        return self.due.get()

    def beat(self) -> None:
        """One, and it is over when this returns; it may be late."""
        self.waiting.get(timeout=60)
        self.due.put(False)
        self.waiting.put(self.waiting.get(timeout=60))

    def end(self, over: bool = True) -> threading.Thread:
        """The last one."""
        thread = self.waiting.get(timeout=60)
        self.due.put(over)
        thread.join(60)
        return thread


def test_what_goes_on_without_news_is_said_again_and_again() -> None:
    clock, file, lines = Clock(), io.StringIO(), io.StringIO()
    progress = Progress([PlainView(file), JsonView(lines)], clock)
    progress.variant("llada", 2, 5)
    with progress.activity("training", 10, "steps") as task:
        task.update(3, loss=3.7)
        with progress.activity("measuring the held-out loss"):
            for _ in range(6):
                clock.now += 10
                progress.beat()
        progress.beat()
        clock.now += 25
        progress.beat()
    progress.beat()
    assert file.getvalue().splitlines()[2:] == [
        "[0:20] llada (2 of 5): still measuring the held-out loss, 0:20",
        "[0:40] llada (2 of 5): still measuring the held-out loss, 0:40",
        "[1:00] llada (2 of 5): still measuring the held-out loss, 1:00",
        "[1:00] llada (2 of 5): training: 3 of 10 steps, loss 3.700",
        "[1:25] llada (2 of 5): still training, 1:25: 3 of 10 steps, loss 3.700",
    ]
    said = [json.loads(line) for line in lines.getvalue().splitlines()]
    assert [(each["activity"], each["seconds"]) for each in said if each["event"] == "still"] == [
        ("measuring the held-out loss", 20.0), ("measuring the held-out loss", 40.0),
        ("measuring the held-out loss", 60.0), ("training", 85.0),
    ]  # fmt: skip


def test_the_file_of_a_run_without_news_stays_fresh_until_it_ends(tmp_path: Path) -> None:
    path, timer = tmp_path / PROGRESS_FILE, Timer()
    progress = Progress([StatusFile(tmp_path)])
    with heartbeat(progress, timer):
        timer.beat()
        assert not path.exists()  # nothing is done yet: another run may be at work in the folder
        with progress.activity("compiling"):
            for _ in range(3):
                path.unlink()
                timer.beat()
                assert json.loads(path.read_text())["activity"] == "compiling"
        path.unlink()
        timer.beat()
        assert json.loads(path.read_text())["closed"] is False  # between two activities, too
    progress.close(finished=True)
    before = path.read_text()
    timer.beat()
    assert path.read_text() == before
    assert not timer.end().is_alive()


def test_nothing_is_said_once_all_is_over() -> None:
    file, timer = io.StringIO(), Timer()
    clock = Clock()
    progress = Progress([PlainView(file)], clock)
    with progress.activity("saving"):
        with heartbeat(progress, timer):
            pass
        progress.close(finished=False)
        clock.now += 1000
        timer.beat()
    assert not timer.end().is_alive()
    assert file.getvalue() == "[0:00] saving\n"


def test_a_line_that_cannot_be_written_ends_no_work() -> None:
    """Its reader has gone: the others are told all the same."""

    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    file = io.StringIO()
    progress = Progress([PlainView(Gone()), PlainView(file)])
    with progress.activity("training", 2, "steps") as task:
        task.update(1)
        progress.beat()
    progress.close(finished=True)
    assert file.getvalue().splitlines()[0] == "[0:00] training"


def test_a_beat_that_fails_breaks_nothing() -> None:
    file, timer, clock = io.StringIO(), Timer(), Clock()
    progress = Progress([PlainView(file)], clock)
    with heartbeat(progress, timer), progress.activity("saving"):
        clock.now += 1000
        file.close()
        timer.beat()  # a traceback would fail the test
        timer.beat()
        timer.end()


def test_the_heart_keeps_no_process_alive() -> None:
    timer = Timer()
    with heartbeat(Progress(), timer):
        thread = timer.waiting.get(timeout=60)
        assert thread.daemon
    timer.due.put(True)
    thread.join(60)
    assert not thread.is_alive()


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")  # of Python 3.12 and later
def test_a_process_that_is_forked_while_others_are_told_can_tell_too() -> None:
    """Neither its lock nor its stream is in the hands of a thread that it doesn't have."""
    telling, go_on = threading.Event(), threading.Event()

    class Slow:
        def show(self, event: Event, moment: Moment, now: float) -> None:
            if event == "still":
                telling.set()
                go_on.wait(60)

    progress = Progress([Slow()])
    thread = threading.Thread(target=progress.beat)
    thread.start()
    telling.wait(60)
    threading.Timer(0.1, go_on.set).start()
    child = os.fork()  # waits until the others are told
    if child == 0:
        try:
            other = threading.Thread(target=progress.tell, args=("begun", Moment("x")), daemon=True)
            other.start()
            other.join(60)
            os._exit(1 if other.is_alive() else 0)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    thread.join(60)
