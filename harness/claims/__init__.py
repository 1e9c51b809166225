"""What documents claim about models and their training, compared with their own logs, with the code and with a new training."""

from harness.claims.audit import Audit, audit, copied_logs
from harness.claims.dossier import AuditFinding
from harness.claims.rule import Rule
from harness.claims.rules import RULES

__all__ = ["RULES", "Audit", "AuditFinding", "Rule", "audit", "copied_logs"]
