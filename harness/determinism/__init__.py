"""The determinism check: repeats a training with one condition changed at a time and looks for causes of differences."""

from harness.determinism.axes import Axis
from harness.determinism.runner import DeterminismReport, check_determinism

__all__ = ["Axis", "DeterminismReport", "check_determinism"]
