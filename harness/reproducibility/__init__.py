"""Comparing trainings: traces, bisection of two runs, replay of a record, and the variation between seeds (seed noise)."""

from harness.reproducibility.bisection import Bisection, bisect
from harness.reproducibility.comparison import (
    Cause,
    Difference,
    declared_differences,
    environment_differences,
    first_difference,
    setting_differences,
)
from harness.reproducibility.noise import SeedNoise, read_records, seed_noise
from harness.reproducibility.replay import Replay, Rerun
from harness.reproducibility.trace import Tracer

__all__ = [
    "Bisection",
    "Cause",
    "Difference",
    "Replay",
    "Rerun",
    "SeedNoise",
    "Tracer",
    "bisect",
    "declared_differences",
    "environment_differences",
    "first_difference",
    "read_records",
    "seed_noise",
    "setting_differences",
]
