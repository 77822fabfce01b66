"""Lays the variants of a run side by side: results.json, report.md and report.html, from files only."""

from opendllm.core.reporting.write import Report, write_report

__all__ = ["Report", "write_report"]
