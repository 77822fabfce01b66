"""What the HTML pages share: their templates' environment, scripts and styles, and data packed into them."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from opendllm.core.foundation.visible_text import UNSEEN, visible

HERE = Path(__file__).parent / "page-parts"


def render_page(template: str, **values: object) -> str:
    """A template of the folder `page`.

    Everything that comes from a run is escaped, and what would be unseen is spelt. Besides, each page's own
    policy lets only scripts run that carry its nonce, and nothing be fetched.
    """
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_finalize,
    )
    return environment.get_template(template).render(**values)


def _finalize(value: object) -> object:
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def scripts(names: Sequence[str]) -> Markup:
    """Our own scripts one after the other, as a page has them; before them, what `visible` spells."""
    runs = f"const UNSEEN_RUNS = {json.dumps(UNSEEN)};\n"
    return Markup(runs) + styles(names)  # noqa: S704


def styles(names: Sequence[str]) -> Markup:
    """Our own style sheets."""
    return Markup("\n".join((HERE / name).read_text(encoding="utf-8") for name in names))  # noqa: S704


def packed_data(content: object) -> str:
    """JSON as `unpackJson` of packed.js reads it; lone surrogates survive as escapes."""
    return packed_text(json.dumps(content, separators=(",", ":")))


def packed_text(text: str) -> str:
    """Gzip in base64: nothing in it can end a script element, and a report made twice is the same."""
    return base64.b64encode(gzip.compress(text.encode(), compresslevel=6, mtime=0)).decode()


@cache
def packed_plotly() -> str:
    """Plotly's whole script, a third of its size."""
    from plotly.offline import get_plotlyjs

    return packed_text(get_plotlyjs())
