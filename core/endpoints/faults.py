"""What goes wrong between here and a server, each in one line."""

from __future__ import annotations

import email.utils
import json
import math
import re
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from opendllm.core.foundation.visible_text import visible_line

LONGEST_QUOTE = 200
"""Characters of what a server says that are repeated in an error."""
_TOO_LONG = re.compile(
    r"context.{0,12}(length|window|size|limit)|model's context|max_model_len|"
    r"(prompt|inputs?\b).{0,60}(too (long|large|many tokens)|longer than|exceed|must have less than)|"
    r"(inputs?|prompt)`? tokens.{0,30}must be",
    re.IGNORECASE,
)
"""How servers say that a prompt and what is to be written don't fit (vLLM, SGLang, llama.cpp, TGI, ours).

Other fields have lengths and limits, too: `Asking` finds out whether a short prompt is taken."""
_MAY_BE_TOO_LONG = frozenset({400, 413, 422})


class ServerError(Exception):
    """A request that has no answer; the message says why, in one line.

    Attributes:
        kind: `connection`, `timeout` or `malformed`, or the HTTP status.
        retry_after: seconds that the server asks to be left alone for.
        too_long: whether it says that this request is too long for its model.
    """

    def __init__(
        self, kind: str | int, message: str, retry_after: float | None = None, too_long: bool = False
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.retry_after = retry_after
        self.too_long = too_long


def fault_of_status(status: int, headers: Mapping[str, str], content: bytes, quote: Quote) -> ServerError:
    """What a response that is no 200 means.

    Args:
        status: its status.
        headers: its headers.
        content: its body.
        quote: what it says, fit to be shown.
    """
    said, code = _error_in(content)
    because = f": {quote(said)}" if said else ""
    too_long = status == 413 or (
        status in _MAY_BE_TOO_LONG and (code == "context_length_exceeded" or bool(_TOO_LONG.search(said)))
    )
    if too_long:
        return ServerError(status, f"the server refuses it as too long ({status}{because})", too_long=True)
    if 300 <= status < 400:
        where = _place(headers.get("location", ""))
        message = (
            f"redirects{where} ({status}), which isn't followed: give the URL itself, if that is the server"
        )
    elif status in (401, 403):
        message = f"refuses the token, or wants one ({status}{because}): see token_env"
    elif status == 404:
        message = f"knows no such path or model (404{because})"
    elif status == 429:
        message = f"asks for fewer requests (429{because})"
    elif status < 500:
        message = f"refuses the request ({status}{because})"
    else:
        message = f"fails ({status}{because})"
    return ServerError(status, message, _retry_after(headers.get("retry-after")))


class Quote:
    """Makes a server's words fit to be shown: one short line, without the token."""

    def __init__(self, token: str | None) -> None:
        self._token = token

    def __call__(self, said: str) -> str:
        """The words."""
        if self._token:
            said = said.replace(self._token, "(the token)")
        line = next((line for line in said.splitlines() if line.strip()), "")
        shown = visible_line(line.strip()[: LONGEST_QUOTE + 1])
        return shown if len(shown) <= LONGEST_QUOTE else f"{shown[:LONGEST_QUOTE]}..."


def json_of(content: bytes, quote: Quote) -> Any:
    """A response's body.

    Raises:
        ServerError: it isn't JSON, or has numbers that are none.
    """
    try:
        return json.loads(content, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        start = content[:2000].decode("utf-8", "replace")
        what = "an HTML page" if _is_html(start) else f"'{quote(start)}'" if start.strip() else "nothing"
        raise ServerError("malformed", f"answers what is no JSON: {what}") from None


def _error_in(content: bytes) -> tuple[str, str | None]:
    """(the message, the code) of a body that says what is wrong, in one of the forms in use."""
    text = content[:100_000].decode("utf-8", "replace")
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        return ("an HTML page" if _is_html(text) else text), None
    found = body.get("error", body) if isinstance(body, dict) else body
    if isinstance(found, dict):
        said = next((found[key] for key in ("message", "detail", "msg") if found.get(key)), "")
        code = found.get("code")
        return (said if isinstance(said, str) else json.dumps(said)), (
            code if isinstance(code, str) else None
        )
    return (found if isinstance(found, str) else json.dumps(found)), None


def _is_html(text: str) -> bool:
    return text.lstrip()[:14].lower().startswith(("<!doctype html", "<html"))


def _place(location: str) -> str:
    """Where a redirect leads, without what may be secret in it."""
    try:
        parts = urlsplit(location)
        host = parts.hostname
    except ValueError:
        return ""
    where = f"{parts.scheme}://{host}{parts.path}" if host else parts.path
    return f" to {visible_line(where[:LONGEST_QUOTE])}" if where else ""


def _retry_after(said: str | None) -> float | None:
    """Seconds, or until a date; None where it says neither."""
    if said is None:
        return None
    try:
        seconds = float(said)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(said).timestamp() - time.time()
        except (TypeError, ValueError, OverflowError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")
