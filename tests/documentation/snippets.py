"""The fenced blocks of the documentation's pages."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(
    r"(?:<!-- not run: (?P<reason>[^\n]+) -->\n)?^```(?P<language>\w+)(?: title=\"(?P<title>[^\"]+)\")?\n"
    r"(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Snippet:
    """One block.

    Attributes:
        page: the page's path below docs/.
        line: its first line, from 1.
        language: `python`, `yaml`, `sh`, `toml`, `json`.
        title: the file that it is.
        reason: why it isn't run.
        text: what it says.
    """

    page: str
    line: int
    language: str
    title: str | None
    reason: str | None
    text: str

    @property
    def where(self) -> str:
        """Names it in a test's id."""
        return f"{self.page}:{self.line}"

    def commands(self) -> list[list[str]]:
        """A shell block's commands, a line each; a backslash joins lines."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [shlex.split(line, comments=True) for line in lines if line.split("#")[0].strip()]


def snippets(docs: Path) -> Iterator[Snippet]:
    """All of them, in the order of pages and lines; an indented block of commands is one of `sh`."""
    for page in sorted(docs.rglob("*.md")):
        text = page.read_text(encoding="utf-8")
        name = page.relative_to(docs).as_posix()
        for found in FENCE.finditer(text):
            line = text.count("\n", 0, found.start("text")) + 1
            yield Snippet(name, line, found["language"], found["title"], found["reason"], found["text"])


def shown_commands(docs: Path) -> Iterator[tuple[str, list[str]]]:
    """(where, words) of every command line of `platform` that a page shows, fenced or indented."""
    for page in sorted(docs.rglob("*.md")):
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for number, line in enumerate(text.splitlines(), 1):
            found = re.match(r"(?:    )?platform (?=\S)(.*)", line)
            if found:
                yield f"{page.relative_to(docs)}:{number}", shlex.split(found[1], comments=True)
