"""Speed, measured against a fixed reference workload in the same run, and the comparison of two such runs."""

from harness.benchmarking.comparison import (
    CONFIDENCE,
    Comparison,
    SavedRun,
    compare_runs,
    newest_runs,
    read_run,
)
from harness.benchmarking.measurement import (
    FEWEST_SITTINGS,
    ROUNDS_A_SITTING,
    Measurement,
    PairedRounds,
    Sitting,
    steady,
)
from harness.benchmarking.workload import EVALUATIONS, IMAGES, WORKLOAD, Kind, reference_workload

__all__ = [
    "CONFIDENCE",
    "EVALUATIONS",
    "FEWEST_SITTINGS",
    "IMAGES",
    "ROUNDS_A_SITTING",
    "WORKLOAD",
    "Comparison",
    "Kind",
    "Measurement",
    "PairedRounds",
    "SavedRun",
    "Sitting",
    "compare_runs",
    "newest_runs",
    "read_run",
    "reference_workload",
    "steady",
]
