"""Results as JSON documents, each with the name of its schema (``docs/schemas``)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from harness.findings import Finding, overall


def document(kind: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON document of a kind, such as ``check``: its content behind ``"schema": "harness.check/1"``."""
    return {"schema": f"harness.{kind}/1", **content}


def findings_content(findings: Iterable[Finding]) -> dict[str, Any]:
    """Findings and their overall status, for use in a document."""
    findings = tuple(findings)
    return {"status": overall(findings).value, "findings": [finding.to_json() for finding in findings]}
