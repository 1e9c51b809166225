"""Presentation of results: findings and tables for the terminal, JSON documents, and plots."""

from harness.reporting.documents import document, findings_content
from harness.reporting.plain import harmless, shortened
from harness.reporting.plot import MapPicture, plot_curves, plot_images, plot_maps, plot_runs
from harness.reporting.terminal import (
    facts_table,
    findings_table,
    markdown_table,
    plain_table,
    status_text,
    verdict_line,
)

__all__ = [
    "MapPicture",
    "document",
    "facts_table",
    "findings_content",
    "findings_table",
    "harmless",
    "markdown_table",
    "plain_table",
    "plot_curves",
    "plot_images",
    "plot_maps",
    "plot_runs",
    "shortened",
    "status_text",
    "verdict_line",
]
