"""Tests of the rules of the audit, and of their examples, which the documentation shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.claims import RULES, Rule, audit


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_the_example_of_a_rule_triggers_only_that_rule(rule: Rule, tmp_path: Path) -> None:
    """The documentation's example of each rule yields one finding, of that rule and its kind."""
    path = tmp_path / "README.md"
    path.write_text(rule.example, "utf-8")
    found = audit(path)
    assert [(rule.name, rule.kind)] == [(finding.rule, finding.kind) for finding in found.findings]
    assert (rule.kind in {"contradiction", "overstatement"}) == found.failed
