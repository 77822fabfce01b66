"""Numbers as a reader wants to see them; "-" for one that was not measured."""

from __future__ import annotations

MISSING = "-"


def number(value: float | None) -> str:
    """About three significant digits."""
    if value is None:
        return MISSING
    size = abs(value)
    if 0 < size < 0.0005:
        return f"{value:.1e}"
    if size < 1:
        return f"{value:.3f}"
    if size < 100:
        return f"{value:.2f}"
    return f"{value:,.1f}" if size < 10_000 else f"{value:,.0f}"


def signed(value: float) -> str:
    """A difference: with its sign."""
    return ("+" if value >= 0 else "") + number(value)


def count(value: float | None) -> str:
    """A whole number."""
    return MISSING if value is None else f"{value:,.0f}"


def interval(low: float | None, high: float | None) -> str:
    """Both ends in brackets; nothing where there is no interval."""
    return "" if low is None or high is None else f"[{number(low)}, {number(high)}]"


def text(value: str | None) -> str:
    """A name, or the dash."""
    return value or MISSING
