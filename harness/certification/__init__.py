"""Accuracy statistics: an accuracy rule for one run, certificates over many seeds, and comparisons of certificates."""

from harness.certification.certificate import Certificate, CertifiedRun, Crash, Declaration, declared_seeds
from harness.certification.certify import CERTIFICATE_FILE, certify
from harness.certification.comparison import Flips, PairedComparison, PlacedRun, SeedPair, compare, place_run
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
from harness.certification.replication import NOT_RUN, Published, ReplicatedFigure, Replication, replicate

__all__ = [
    "CERTIFICATE_FILE",
    "NOT_RUN",
    "Certificate",
    "CertifiedRun",
    "ConsistencyRule",
    "Crash",
    "Declaration",
    "Design",
    "Endpoint",
    "EpochNoise",
    "FixedDesign",
    "Flips",
    "OperatingCharacteristics",
    "PairedComparison",
    "PlacedRun",
    "PowerRow",
    "Published",
    "ReplicatedFigure",
    "Replication",
    "SeedPair",
    "SequentialDesign",
    "Verdict",
    "certify",
    "compare",
    "declared_seeds",
    "epoch_correlation",
    "pass_probability",
    "place_run",
    "power_table",
    "replicate",
]
