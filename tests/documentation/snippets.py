"""The fenced blocks of the documentation's pages, the README and the examples' own."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(
    r"(?:<!-- not run: (?P<reason>[^\n]+) -->\n)?^```(?P<language>\S*)(?: title=\"(?P<title>[^\"]+)\")?\n"
    r"(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
OUTSIDE_DOCS = ("README.md", "CONTRIBUTING.md", "examples/README.md", "examples/package/README.md")


@dataclass(frozen=True)
class Snippet:
    """One block.

    Attributes:
        page: the page's path below the repository.
        line: its first line, from 1.
        language: what it is written in; empty where it says nothing.
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


def pages(repository: Path) -> Iterator[Path]:
    """All pages that people read."""
    yield from sorted((repository / "docs").rglob("*.md"))
    yield from (repository / name for name in OUTSIDE_DOCS)


def snippets(repository: Path) -> Iterator[Snippet]:
    """All of them, in the order of pages and lines."""
    for page in pages(repository):
        text = page.read_text(encoding="utf-8")
        name = page.relative_to(repository).as_posix()
        for found in FENCE.finditer(text):
            line = text.count("\n", 0, found.start("text")) + 1
            yield Snippet(name, line, found["language"], found["title"], found["reason"], found["text"])


def indented_blocks(page: Path) -> list[int]:
    """The lines at which a page has code that is only indented, or a fence that is."""
    text = page.read_text(encoding="utf-8")
    outside = FENCE.sub(lambda found: "\n" * found[0].count("\n"), text).splitlines()
    return [
        number
        for number, (above, line) in enumerate(zip(["", *outside], outside, strict=False), 1)
        if re.match(r"\s+```", line) or (not above.strip() and re.match(r" {4}\S", line))
    ]
