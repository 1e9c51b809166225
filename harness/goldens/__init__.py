"""Goldens: what a model computes, on record, to the bit and within tolerance."""

from harness.goldens.check import check_golden, unused_goldens
from harness.goldens.golden import SUFFIX, Golden, Key, golden_bytes, golden_path, key_of, read_golden, write_golden
from harness.goldens.update import Update, update_golden

__all__ = [
    "SUFFIX",
    "Golden",
    "Key",
    "Update",
    "check_golden",
    "golden_bytes",
    "golden_path",
    "key_of",
    "read_golden",
    "unused_goldens",
    "update_golden",
    "write_golden",
]
