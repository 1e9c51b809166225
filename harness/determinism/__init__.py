"""The determinism audit: the same training again and again with one thing changed, and the cause where it differs."""

from harness.determinism.axes import Axis
from harness.determinism.conduct import Audit, audit, cut

__all__ = ["Audit", "Axis", "audit", "cut"]
