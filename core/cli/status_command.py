"""`status`: a run that goes on elsewhere."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from opendllm.core.progress.lines import duration, line
from opendllm.core.progress.progress import Moment
from opendllm.core.run.status import RunStatus, run_status

_KEYS = frozenset({
    "process", "host", "updated", "closed", "finished", "variant", "variant_number", "variants", "activity",
    "done", "total", "seconds", "seconds_left",
})  # fmt: skip
"""Of progress.json; all others are figures."""


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(status)


def status(
    run: Annotated[Path, typer.Argument(help="A run's folder.")],
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Show how far a run is that goes on elsewhere, or where it stopped. Reads its folder only."""
    found = run_status(run)
    if as_json:
        typer.echo(json.dumps(asdict(found), indent=2))
        return
    typer.echo(f"{run}: {found.state}{_where(found)}")
    if found.progress.get("activity"):
        typer.echo(f"  {'' if found.state == 'running' else 'it was at '}{_said(found)}")
    width = max((len(variant.name) for variant in found.variants), default=0)
    for variant in found.variants:
        steps = "no checkpoint" if variant.step is None else f"step {variant.step}"
        if variant.step is not None and variant.wanted:
            steps += f" of {variant.wanted} is saved"
        results = ", ".join(variant.results) or "nothing yet"
        typer.echo(f"  {variant.name:{width}}  {steps}; scored: {results}")


def _where(found: RunStatus) -> str:
    said = found.progress
    if found.age is None:
        return ""
    process = f" as process {said.get('process')} on {said.get('host')}" if found.state == "running" else ""
    return f"{process}, heard of {duration(found.age)} ago"


def _said(found: RunStatus) -> str:
    """What it last said, in the words of its own lines; a damaged file may hold anything."""
    said = found.progress
    figures = {
        name: float(value)
        for name, value in said.items()
        if name not in _KEYS and isinstance(value, int | float) and not isinstance(value, bool)
    }
    done, total = _whole(said.get("done")), _whole(said.get("total"))
    moment = Moment(
        str(said.get("activity")),
        str(said.get("variant") or ""),
        _whole(said.get("variant_number")) or 0,
        _whole(said.get("variants")) or 0,
        done or 0,
        total,
        figures,
        first=done,
    )
    left, seconds = _seconds(said.get("seconds_left")), _seconds(said.get("seconds"))
    if left is not None and total is not None and done is not None and done < total:
        return f"{line(moment, 0.0)}, {duration(left)} left"
    if done is None and found.state == "running" and seconds is not None:
        return f"{line(moment, 0.0)}, for {duration(seconds + (found.age or 0.0))}"
    return line(moment, 0.0)


def _seconds(value: object) -> float | None:
    known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return max(0.0, float(value)) if known and isinstance(value, int | float) else None


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
