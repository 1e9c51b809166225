"""What documents claim about models and their training, compared with their own logs, layer summaries and code."""

from harness.claims.audit import RULES, Audit, audit, copied_logs
from harness.claims.dossier import AuditFinding, Dossier
from harness.claims.evidence import Claim, CodeModel, LayerTable, Reading, Run
from harness.claims.rule import Rule

__all__ = [
    "RULES",
    "Audit",
    "AuditFinding",
    "Claim",
    "CodeModel",
    "Dossier",
    "LayerTable",
    "Reading",
    "Rule",
    "Run",
    "audit",
    "copied_logs",
]
