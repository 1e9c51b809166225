"""The description of the machine in the results of the benchmarks."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    """Add the environment of a run record: versions, commit, CPU capability, accelerator, driver."""
    from harness.training import environment  # noqa: PLC0415 - torch only where something is measured

    machine_info["harness"] = dataclasses.asdict(environment())
