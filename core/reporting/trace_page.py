"""Renders a trace's own page: one file that needs no network."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from opendllm.core.foundation.decoding_traces import DecodingTrace, trace_content
from opendllm.core.reporting.pages import packed_data, render_page, scripts, styles

SCRIPTS = ("packed.js", "visible_text.js", "trace_viewer.js", "trace.js")
STYLES = ("page.css", "viewer.css")
LONGEST_LABEL = 60


def render_trace_page(title: str, traces: Sequence[DecodingTrace]) -> str:
    """The traces, those of one prompt side by side."""
    groups: dict[tuple[str, str | None], list[dict[str, Any]]] = {}
    for trace in traces:
        content = {**trace_content(trace), "label": trace.sampler}
        groups.setdefault((trace.prompt, trace.suffix), []).append(content)
    packed = packed_data(
        [
            {"label": f"{number}: {_label(prompt)}", "traces": found}
            for number, ((prompt, _), found) in enumerate(groups.items(), start=1)
        ]
    )
    return render_page(
        "trace.html.j2",
        title=title,
        nonce=hashlib.sha256(packed.encode()).hexdigest(),
        style=styles(STYLES),
        script=scripts(SCRIPTS),
        traces=packed,
    )


def _label(prompt: str) -> str:
    line = " ".join(prompt.split())
    return line if len(line) <= LONGEST_LABEL else f"…{line[-LONGEST_LABEL:]}"
