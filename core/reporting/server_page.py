"""Renders the page that a server shows: a prompt, a sampler, and the text as it comes to be."""

from __future__ import annotations

import secrets

from opendllm.core.reporting.pages import render_page, scripts, styles

SCRIPTS = ("packed.js", "visible_text.js", "trace_viewer.js", "server.js")
STYLES = ("page.css", "viewer.css", "server.css")


def render_server_page() -> str:
    """It asks the server that it comes from, and nobody else."""
    return render_page(
        "server.html.j2",
        title="Open-dLLM",
        nonce=secrets.token_hex(16),
        style=styles(STYLES),
        script=scripts(SCRIPTS),
    )
