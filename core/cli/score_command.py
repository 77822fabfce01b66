"""`score`: samples made anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from opendllm.core.cli.common_options import AllowCodeExecution, ProgressStyle
from opendllm.core.cli.generate_command import parse_option
from opendllm.core.foundation.visible_text import visible
from opendllm.core.launching.stopping import stopping_at_once
from opendllm.core.progress.views import shown_progress
from opendllm.core.reporting.significance import without_spread
from opendllm.registries.benchmarks import CodeExecution, IsolationLevel
from opendllm.registries.discovery import installed_plugins
from opendllm.registries.errors import UserError

if TYPE_CHECKING:
    from opendllm.core.evaluation.score_samples import Scored


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(score)


def score(
    benchmark: Annotated[str, typer.Option(help="As in `platform plugins`.")],
    samples: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="JSON lines: task_id, and completion or solution; or a run's own; a folder as EvalPlus "
            "writes it; a list of lists as bigcode-evaluation-harness does.",
        ),
    ],
    problems: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The benchmark's problems; by default from the Hugging Face hub."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="JSON; by default beside the samples.")
    ] = None,
    missing: Annotated[
        Literal["named", "failed", "refused"],
        typer.Option(help="Tasks without a sample: only named, counted as failed, or nothing is scored."),
    ] = "named",
    allow_code_execution: AllowCodeExecution = False,
    isolation: Annotated[
        IsolationLevel | None,
        typer.Option(help="The weakest sandbox that will do; by default the strongest of this machine."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Programs run at once; by default one a core.")
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", "-o", metavar="KEY=VALUE", help="Of the benchmark."),
    ] = None,
    progress: ProgressStyle = None,
) -> None:
    """Score samples made anywhere. Exit code 1: scored, but something is wrong with the file."""
    if not allow_code_execution and (isolation is not None or workers is not None):
        raise UserError("--isolation and --workers have no effect without --allow-code-execution")
    plugins = installed_plugins()
    plugins.benchmarks.get(benchmark)  # a misspelt one is named before anything heavy is imported
    from opendllm.core.evaluation.progress import evaluation_progress
    from opendllm.core.evaluation.score_samples import ScoringJob, score_samples

    options = dict(parse_option(text) for text in option or [])
    job = ScoringJob(benchmark, samples, options, problems, output, missing)
    execution = CodeExecution(isolation, workers) if allow_code_execution else None
    with stopping_at_once(), shown_progress(progress) as shown, evaluation_progress(shown, benchmark) as told:
        scored = score_samples(plugins, job, execution, told.judged)
    _print_table(scored)
    for note in scored.scores.notes:
        typer.echo(f"note: {visible(note)}")
    typer.echo(f"scores: {scored.output}")
    for issue in scored.samples.issues:
        typer.echo(f"error: {visible(issue)}", err=True)
    if scored.samples.issues:
        raise typer.Exit(1)


def _print_table(scored: Scored) -> None:
    """Headline metrics first."""
    from rich.console import Console
    from rich.table import Table

    metrics = scored.scores.metrics
    tasks = len(scored.scores.per_task)
    table = Table(title=f"{len(scored.samples.answers)} samples of {tasks} tasks")
    table.add_column("metric")
    table.add_column("score", justify="right")
    table.add_column("95 % interval", justify="right")
    for name in [name for name in scored.headline if name in metrics] + [
        name for name in metrics if name not in scored.headline
    ]:
        metric = metrics[name]
        bound = "≤ " if metric.kind == "upper bound" else ""
        interval = f"[{metric.low:.4f}, {metric.high:.4f}]"
        if metric.low == metric.value == metric.high:
            values = [numbers[name] for numbers in scored.scores.per_task.values() if name in numbers]
            interval = without_spread(values)
        table.add_row(name, f"{bound}{metric.value:.4f}", interval)
    Console(width=100).print(table, markup=False)
