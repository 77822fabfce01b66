"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

from opendllm.core.progress.views import Style

Limit = Annotated[int | None, typer.Option(min=1, help="At most so many problems of each benchmark.")]
AllowCodeExecution = Annotated[
    bool, typer.Option("--allow-code-execution", help="Let benchmarks run generated code, in a sandbox.")
]
ProgressStyle = Annotated[
    Style | None,
    typer.Option(
        help="How far it is, on standard error: bars, lines, JSON lines or nothing. By default bars on a "
        "terminal, lines elsewhere."
    ),
]
