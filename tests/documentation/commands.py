"""Runs a command that the documentation shows, in this process: torch is loaded already."""

from __future__ import annotations

import contextlib
from pathlib import Path

import typer.main
from ruamel.yaml import YAML

from opendllm.core.cli.main import app

REPOSITORY = Path(__file__).parents[2]
FEW = ("--limit", "2")
SMALLER = {
    "train.steps": 2,
    "train.held_out.rows": 2,
    "train.checkpoint.every": 2,
    "data.corpus.name": "text-files",  # of which less is read than of the standard library
    "data.corpus.options.train": REPOSITORY / "registries" / "*.py",
    "data.corpus.options.held_out": REPOSITORY / "plugins" / "samplers" / "*.py",
}
QUICK = (*FEW, *(word for key, value in SMALLER.items() for word in ("--set", f"{key}={value}")))
"""What makes a run of the quickstart's data small enough for a test."""


def run_command(words: list[str]) -> None:
    """A line of a shell block, in the working folder; `>` sends what it prints to a file.

    Args:
        words: of a command of `platform`.
    """
    assert words[0] == "platform", (
        f"{words[0]} can't be run here: say why above the block, <!-- not run: why -->"
    )
    words, target = (words[: words.index(">")], words[-1]) if ">" in words else (words, None)
    arguments = [*words[1:], *_fewer(words[1:])]
    with contextlib.ExitStack() as stack:
        if target is not None:
            stack.enter_context(contextlib.redirect_stdout(stack.enter_context(Path(target).open("w"))))
        code = typer.main.get_command(app).main(args=arguments, prog_name="platform", standalone_mode=False)
    assert not code, f"{words}: exit code {code}"


def _fewer(words: list[str]) -> tuple[str, ...]:
    """More arguments, for less work."""
    if words[0] == "evaluate":
        return FEW
    if words[0] != "run" or "--set" in words:
        return ()
    said = YAML(typ="safe").load(Path(words[1]).read_text())
    return QUICK if "train" in said or "extends" in said else FEW
