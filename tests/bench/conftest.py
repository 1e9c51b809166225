"""What the benchmarks' results say about the machine they were measured on."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    """Add what a run record says about the machine: versions, commit, CPU capability, accelerator, driver."""
    from harness.training import environment  # noqa: PLC0415 - torch only where something is measured

    machine_info["harness"] = dataclasses.asdict(environment())
