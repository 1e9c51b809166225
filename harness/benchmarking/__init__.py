"""Measuring speed relative to a fixed reference workload, which is timed in the same run, and comparing two runs."""

from harness.benchmarking.comparison import CONFIDENCE, Comparison, SavedRun, compare_runs, newest_runs, read_run
from harness.benchmarking.measurement import MIN_BLOCKS, ROUNDS_PER_BLOCK, Block, Measurement, PairedRounds, steady
from harness.benchmarking.workload import EVALUATIONS, IMAGES, WORKLOAD, Kind, reference_workload

__all__ = [
    "CONFIDENCE",
    "EVALUATIONS",
    "IMAGES",
    "MIN_BLOCKS",
    "ROUNDS_PER_BLOCK",
    "WORKLOAD",
    "Block",
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
