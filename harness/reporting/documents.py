"""JSON documents; each names its JSON schema, which is in ``docs/schemas``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from harness.findings import Finding, overall


def document(kind: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """Return a JSON document: the key ``schema``, such as ``"harness.check/1"`` for the kind ``check``, then the content."""
    return {"schema": f"harness.{kind}/1", **content}


def findings_content(findings: Iterable[Finding]) -> dict[str, Any]:
    """Return the keys ``status`` (the overall status of the findings) and ``findings`` of a JSON document."""
    findings = tuple(findings)
    return {"status": overall(findings).value, "findings": [finding.to_json() for finding in findings]}
