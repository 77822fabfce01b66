"""Renders report.html: one file that needs no network."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from opendllm.core.reporting import figures, tables
from opendllm.core.reporting.comparisons import Comparison
from opendllm.core.reporting.contamination import contaminations
from opendllm.core.reporting.records import Study
from opendllm.core.reporting.samples import SideBySide

HERE = Path(__file__).parent


def render_html(study: Study, comparisons: Sequence[Comparison], samples: Sequence[SideBySide]) -> str:
    """The whole page.

    Everything that came from a run is escaped. Besides, the page's own policy lets only the two
    scripts run that carry its nonce, and nothing be fetched.
    """
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    training_chart = figures.training_chart(study)
    return environment.get_template("report.html.j2").render(
        study=study,
        baseline=comparisons[0].baseline if comparisons else None,
        variant_table=tables.variant_table(study),
        score_tables=tables.score_tables(study),
        other_metric_tables=tables.other_metric_tables(study),
        training_table=tables.training_table(study),
        speed_table=tables.speed_table(study),
        comparison_table=tables.comparison_table(comparisons),
        plugin_table=tables.plugin_table(study),
        contaminations=contaminations(study),
        notes=tables.notes(study),
        samples=samples,
        training_charts=[training_chart] if training_chart else [],
        score_charts=figures.score_charts(study),
        nonce=_nonce(study),
        plotly_script=get_plotlyjs(),
    )


def _nonce(study: Study) -> str:
    """Depends on all that was read, so none of it can contain it, and a report made twice is the same."""
    return hashlib.sha256(repr(study).encode("utf-8", "backslashreplace")).hexdigest()
