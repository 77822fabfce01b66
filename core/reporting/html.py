"""Renders report.html: one file that needs no network."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from opendllm.core.reporting import (
    cost_tables,
    figures,
    reward_reports,
    score_tables,
    tables,
    tradeoff_figures,
)
from opendllm.core.reporting.comparisons import ABOUT_DIFFERENCES, Comparison
from opendllm.core.reporting.contamination_tables import contaminations
from opendllm.core.reporting.differences import variants_only_in
from opendllm.core.reporting.pages import packed_plotly, render_page, scripts, styles
from opendllm.core.reporting.parallelism import AUP_SOURCE
from opendllm.core.reporting.published_figures import published_figures
from opendllm.core.reporting.records import Study
from opendllm.core.reporting.sample_browser import sample_page, trace_page
from opendllm.core.reporting.significance import ABOUT_SCORES

SCRIPTS = (
    "packed.js",
    "visible_text.js",
    "trace_viewer.js",
    "tables.js",
    "samples.js",
    "charts.js",
    "report.js",
)
STYLES = ("page.css", "viewer.css", "report.css")


def render_html(study: Study, comparisons: Sequence[Comparison]) -> str:
    """The whole page."""
    samples, traces = sample_page(study), trace_page(study)
    losses = (figures.held_out_chart(study), figures.training_chart(study))
    charts: dict[str, Any] = {
        "loss_charts": [chart for chart in losses if chart is not None],
        "reward_charts": reward_reports.reward_charts(study),
        "score_charts": figures.score_charts(study),
        "pareto_charts": tradeoff_figures.pareto_charts(study),
        "pass_at_k_charts": tradeoff_figures.pass_at_k_charts(study),
        "length_charts": tradeoff_figures.length_charts(study),
    }
    return render_page(
        "report.html.j2",
        study=study,
        baseline=comparisons[0].baseline if comparisons else None,
        damage=tables.damage(study),
        variant_table=tables.variant_table(study),
        overview_table=score_tables.overview_table(study),
        overview_groups=_groups(study),
        other_metric_tables=score_tables.other_metric_tables(study),
        published=published_figures(study),
        absent_samples=tables.absent_samples(study),
        about_scores=ABOUT_SCORES,
        about_differences=ABOUT_DIFFERENCES,
        comparison_table=tables.comparison_table(comparisons),
        training_table=tables.training_table(study),
        reward_table=reward_reports.reward_table(study),
        cost_table=cost_tables.cost_table(study),
        speed_table=cost_tables.speed_table(study),
        parallelism_table=cost_tables.parallelism_table(study),
        aup_source=AUP_SOURCE,
        plugin_table=tables.plugin_table(study),
        settings_table=tables.settings_table(study),
        difference_table=tables.difference_table(study),
        variants_only_in=variants_only_in(study),
        contaminations=contaminations(study),
        notes=tables.notes(study),
        **charts,
        have_frontier=tradeoff_figures.have_frontier(charts["pareto_charts"]),
        samples=samples,
        traces=traces,
        plotly=packed_plotly(),
        nonce=_nonce(study),
        script=scripts(SCRIPTS),
        style=styles(STYLES),
    )


def _groups(study: Study) -> list[tuple[str, int]]:
    """(benchmark, how many columns of the overview are its)."""
    columns = [benchmark for benchmark, _ in score_tables.overview_columns(study)]
    return [(name, columns.count(name)) for name in dict.fromkeys(columns)]


def _nonce(study: Study) -> str:
    """Depends on all that was read, so none of it can contain it, and a report made twice is the same."""
    return hashlib.sha256(repr(study).encode("utf-8", "backslashreplace")).hexdigest()
