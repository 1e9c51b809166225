"""Speed, measured against a fixed reference workload in the same run, and the comparison of two such runs."""

from harness.benchmarking.comparison import (
    CONFIDENCE,
    Comparison,
    SavedRun,
    compare_runs,
    newest_runs,
    read_run,
)
from harness.benchmarking.measurement import FEWEST_ROUNDS, Measurement, PairedRounds, steady
from harness.benchmarking.workload import IMAGES, WORKLOAD, Kind, reference_workload

__all__ = [
    "CONFIDENCE",
    "FEWEST_ROUNDS",
    "IMAGES",
    "WORKLOAD",
    "Comparison",
    "Kind",
    "Measurement",
    "PairedRounds",
    "SavedRun",
    "compare_runs",
    "newest_runs",
    "read_run",
    "reference_workload",
    "steady",
]
