"""Accuracy as a statement: the consistency rule over one run, certificates over many seeds, and comparisons."""

from harness.certification.comparison import Flips, PairedComparison, placed
from harness.certification.consistency import ConsistencyRule
from harness.certification.designs import (
    Design,
    Endpoint,
    FixedDesign,
    OperatingCharacteristics,
    SequentialDesign,
    Verdict,
)
from harness.certification.power import EpochNoise, PowerRow, epoch_correlation, pass_probability, power_table

__all__ = [
    "ConsistencyRule",
    "Design",
    "Endpoint",
    "EpochNoise",
    "FixedDesign",
    "Flips",
    "OperatingCharacteristics",
    "PairedComparison",
    "PowerRow",
    "SequentialDesign",
    "Verdict",
    "epoch_correlation",
    "pass_probability",
    "placed",
    "power_table",
]
