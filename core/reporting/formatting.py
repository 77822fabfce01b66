"""Numbers as a reader wants to see them; "-" for one that was not measured."""

from __future__ import annotations

from opendllm.registries.benchmarks import MetricKind

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


def score(value: float | None, kind: MetricKind = "estimate") -> str:
    """A number; one that is an upper bound says so."""
    return ("≤ " if kind == "upper bound" and value is not None else "") + number(value)


def signed(value: float) -> str:
    """A difference: with its sign."""
    return ("+" if value >= 0 else "") + number(value)


def count(value: float | None) -> str:
    """A whole number."""
    return MISSING if value is None else f"{value:,.0f}"


def interval(low: float | None, high: float | None) -> str:
    """Both ends in brackets; nothing where there is no interval."""
    return "" if low is None or high is None else f"[{number(low)}, {number(high)}]"


def duration(seconds: float | None) -> str:
    """As a clock counts: 1:02:03, or 4.2 s."""
    if seconds is None:
        return MISSING
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def memory(size: float | None) -> str:
    """Bytes, in powers of ten."""
    if size is None:
        return MISSING
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def text(value: str | None) -> str:
    """A name, or the dash."""
    return value or MISSING
