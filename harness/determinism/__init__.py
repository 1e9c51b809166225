"""The determinism check: one training, repeated with one thing changed at a time, and the cause of each difference."""

from harness.determinism.axes import Axis
from harness.determinism.runner import DeterminismReport, check_determinism

__all__ = ["Axis", "DeterminismReport", "check_determinism"]
