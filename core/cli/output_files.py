"""Files that a command writes: never over another one, and never lost with what comes after."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from opendllm.core.foundation.atomic_files import write_text, writing
from opendllm.core.foundation.visible_text import visible
from opendllm.registries.errors import UserError
from opendllm.registries.machine_errors import in_words


@contextmanager
def new_file(path: Path | None, of_lines: bool = False) -> Iterator[TextIO | None]:
    """Yields an open file that wasn't there before; None where there is no `path`.

    Opened before the work, so that it isn't done in vain; taken away again where it stays empty, and where
    writing it fails, unless each line is worth something by itself.

    Raises:
        UserError: it is there already, or can't be written.
    """
    if path is None:
        yield None
        return
    if not path.parent.is_dir():
        raise UserError(f"{path.parent} is no folder, so {path.name} cannot be written into it")
    try:
        file = path.open("x", encoding="utf-8")
    except FileExistsError as error:
        raise UserError(f"{path} is there already: choose another name, or move it away") from error
    except OSError as error:
        raise UserError(f"{path} cannot be written: {in_words(error)}") from error
    whole = False
    try:
        yield file
        with writing(path):
            file.close()
        whole = True
    finally:
        with suppress(OSError):
            file.close()
        with suppress(OSError):
            if path.stat().st_size == 0 or not (whole or of_lines):
                path.unlink()


class Lines:
    """Lines that come in any order: in a file at once, and in their own order when all are there."""

    def __init__(self, path: Path | None, file: TextIO | None, total: int, printed_early: bool) -> None:
        """Name the target.

        Args:
            path: of the file; None prints the lines in the end.
            file: `path`, open for writing.
            total: how many lines there will be.
            printed_early: whether they are printed even if not all have come.
        """
        self._path = path
        self._file = file
        self._total = total
        self._printed_early = printed_early
        self._found: dict[int, str] = {}

    def __len__(self) -> int:
        """How many have come."""
        return len(self._found)

    def add(self, index: int, line: str) -> None:
        """Take the line number `index` in."""
        self._found[index] = line
        if self._file is not None:
            assert self._path is not None
            with writing(self._path):
                self._file.write(line + "\n")
                self._file.flush()

    @contextmanager
    def kept(self) -> Iterator[None]:
        """However the block ends, the lines up to then are kept; if it fails, it says how many they are."""
        try:
            yield
        except BaseException:
            if self._found and (self._path is not None or self._printed_early):
                self._put_in_order()
                where = "above" if self._path is None else f"in {self._path}"
                print(f"{len(self)} of {self._total} prompts are answered, {where}", file=sys.stderr)
            raise
        self._put_in_order()

    def _put_in_order(self) -> None:
        text = "".join(self._found[index] + "\n" for index in sorted(self._found))
        if self._path is None:
            # What a model wrote must not steer the terminal; a pipe gets it as it is.
            sys.stdout.write(visible(text) if sys.stdout.isatty() else text)
        elif list(self._found) != sorted(self._found):
            write_text(self._path, text)
