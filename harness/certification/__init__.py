"""The consistency rule over a run record."""

from harness.certification.consistency import ConsistencyRule

__all__ = ["ConsistencyRule"]
