"""Findings and plain documents, for a terminal and as JSON."""

from harness.reporting.documents import document, findings_content
from harness.reporting.terminal import facts_table, findings_table, plain_table, status_text, verdict_line

__all__ = [
    "document",
    "facts_table",
    "findings_content",
    "findings_table",
    "plain_table",
    "status_text",
    "verdict_line",
]
