"""The determinism audit: the same training again and again with one thing changed, and the cause where it differs."""

from harness.audit.axes import Axis
from harness.audit.conduct import Audit, audit, cut

__all__ = ["Audit", "Axis", "audit", "cut"]
