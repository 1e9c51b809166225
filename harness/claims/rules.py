"""All rules of the audit, in the order of the documentation."""

from __future__ import annotations

from harness.claims import accuracy_rules, model_rules, run_rules
from harness.claims.rule import Rule

RULES: tuple[Rule, ...] = tuple(
    one for module in (accuracy_rules, run_rules, model_rules) for one in vars(module).values() if isinstance(one, Rule)
)
