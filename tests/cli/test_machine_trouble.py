"""A full disk, a shell's limits, closed streams: one line that says what to do, and exit code 2."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from opendllm.core.cli import main
from opendllm.core.cli.machine_trouble import machine_trouble
from opendllm.core.cli.output_files import Lines, new_file
from opendllm.core.cli.prompts import read_prompts
from opendllm.core.foundation.atomic_files import write_text
from opendllm.core.reporting.write import _replace_all
from opendllm.registries.errors import UserError
from opendllm.registries.plugin_calls import Blame

ROOM = "make room there, and run again"


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (OSError(errno.ENOSPC, "x", "a/b"), f"a/b: No space left on device: {ROOM}"),
        (
            RuntimeError("I/O error: No space left on device (os error 28)"),
            f"No space left on device: {ROOM}",
        ),
        (RuntimeError("[enforce fail] Too many open files"), "(ulimit -n), and run again"),
        (BlockingIOError(errno.EAGAIN, "x"), "(ulimit -u), and run again"),
        (MemoryError(), "Cannot allocate memory: end what else needs memory, and run again"),
        (
            IsADirectoryError(errno.EISDIR, "Is a directory", "a/b"),
            "a/b: Is a directory: move the folder away",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "a"),
            "a: Permission denied: let this user have it",
        ),
    ],
)
def test_what_the_machine_lacks_is_said_with_the_way_out(raised: Exception, said: str) -> None:
    told = machine_trouble(raised)
    assert isinstance(told, UserError)
    assert said in str(told)


def test_a_library_s_error_is_seen_through() -> None:
    wrapped = RuntimeError("no checkpoint")
    wrapped.__cause__ = OSError(errno.ENOSPC, "x", "a/b")
    assert str(machine_trouble(wrapped)) == f"a/b: No space left on device: {ROOM}"


@pytest.mark.parametrize("raised", [ValueError("x"), OSError("x"), KeyError(28), FileNotFoundError("x")])
def test_what_is_a_mistake_of_the_code_stays_one(raised: Exception) -> None:
    assert machine_trouble(raised) is None


def test_no_plugin_is_blamed_for_a_full_disk() -> None:
    with pytest.raises(OSError, match="No space"), Blame("samplers/p2", "select"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(UserError, match="samplers/p2 failed in select"), Blame("samplers/p2", "select"):
        raise ValueError("x")


@contextmanager
def small_files(size: int) -> Iterator[None]:
    """Files may have so many bytes: writing more is a real error, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_file_that_can_not_be_written_is_as_it_was_and_no_part_stays(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    write_text(path, "old")
    with pytest.raises(OSError, match="File too large") as caught, small_files(100):
        write_text(path, "new" * 1000)
    assert caught.value.filename == str(path)
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("results.json", "old")]


def test_an_output_that_can_not_be_written_is_named_and_no_half_page_stays(tmp_path: Path) -> None:
    page, lines = tmp_path / "trace.html", tmp_path / "answers.jsonl"

    def write_page() -> None:
        with new_file(page) as file:
            assert file is not None
            file.write("x" * 1000)

    def write_lines() -> None:
        with new_file(lines, of_lines=True) as file:
            kept = Lines(lines, file, 2, printed_early=True)
            kept.add(0, "a" * 50)
            kept.add(1, "b" * 500)

    for path, write in ((page, write_page), (lines, write_lines)):
        with pytest.raises(OSError, match="File too large") as caught, small_files(100):
            write()
        assert caught.value.filename == str(path)
    assert [path.name for path in tmp_path.iterdir()] == ["answers.jsonl"]
    assert lines.read_text().startswith("a" * 50 + "\n")


def test_a_report_that_can_not_be_written_names_its_file_and_the_one_before_stays(tmp_path: Path) -> None:
    contents = {tmp_path / "report.md": "x" * 50, tmp_path / "report.html": "x" * 5000}
    (tmp_path / "report.md").write_text("before")
    with (
        pytest.raises(UserError, match=r"report.html: the report can't be written: .*ulimit -f"),
        small_files(100),
    ):
        _replace_all(contents)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("report.md", "before")]


def test_a_plugin_s_package_that_can_not_be_written_names_the_file_and_leaves_nothing(tmp_path: Path) -> None:
    text = (
        "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "from opendllm.core.cli.main import main\nmain()"
    )
    command = [sys.executable, "-B", "-c", text, "new-plugin", "my-smp", "--kind", "sampler"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith("error: my-smp/")
    assert line.endswith(
        "File too large: raise this shell's limit of a file's size (ulimit -f), and run again"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_closed_standard_input_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)  # what Python makes of one that is closed
    for given in (None, "-"):
        with pytest.raises(UserError, match="standard input is closed"):
            read_prompts(None, None, given)


@pytest.mark.parametrize(("number", "is_a_line"), [(errno.ENOSPC, True), (errno.EDOM, False)])
def test_a_library_s_thread_that_can_not_write_is_a_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, number: int, is_a_line: bool
) -> None:
    def fail() -> None:
        raise OSError(number, os.strerror(number), "events")

    monkeypatch.setattr(threading, "excepthook", main._show_thread_error)
    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    said = capsys.readouterr().err.splitlines()
    assert (len(said) == 1) == is_a_line
    assert said[0].startswith("error: events: No space left" if is_a_line else "Exception in thread")
