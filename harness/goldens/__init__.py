"""Goldens: recorded results of models, with which later results are compared bit for bit or within a tolerance."""

from harness.goldens.check import check_golden, unused_goldens
from harness.goldens.golden import SUFFIX, EnvironmentKey, Golden, golden_bytes, golden_path, read_golden, write_golden
from harness.goldens.measurement import environment_key
from harness.goldens.update import Update, update_golden

__all__ = [
    "SUFFIX",
    "EnvironmentKey",
    "Golden",
    "Update",
    "check_golden",
    "environment_key",
    "golden_bytes",
    "golden_path",
    "read_golden",
    "unused_goldens",
    "update_golden",
    "write_golden",
]
