"""JSON documents, each with the name of its schema in ``docs/schemas``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from harness.findings import Finding, overall


def document(kind: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON document: the key ``schema``, such as ``"harness.check/1"`` for the kind ``check``, then the content."""
    return {"schema": f"harness.{kind}/1", **content}


def findings_content(findings: Iterable[Finding]) -> dict[str, Any]:
    """The keys ``status`` and ``findings`` of a document."""
    findings = tuple(findings)
    return {"status": overall(findings).value, "findings": [finding.to_json() for finding in findings]}
