"""Time of a training step and of an evaluation of each shipped model on each device, with the reference workload.

The network is rebuilt from its captured graph, as in training. After a warm-up, its rounds alternate with rounds of the
reference workload; `harness bench compare` reads both from the file that pytest-benchmark saves.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch

from harness.benchmarking import EVALUATIONS, IMAGES, Kind, PairedRounds, steady
from harness.graph import CapturedModel
from mnist_models import list_models
from tests.bench.work import MAX_BLOCKS, work_of

pytestmark = pytest.mark.bench

# A large model is measured in fewer blocks, as many as fit.
SECONDS = 6.0


@pytest.mark.parametrize("kind", ["training", "inference"])
@pytest.mark.parametrize("name", list_models())
def test_speed(
    name: str,
    kind: Kind,
    chosen_device: torch.device,
    shipped: Callable[[str], CapturedModel],
    benchmark: Any,  # noqa: ANN401 - its class is not typed
) -> None:
    """Rounds of the model's work alternate with those of the reference workload; both are saved."""
    if benchmark.disabled:
        why = "pytest-xdist is active" if "PYTEST_XDIST_WORKER" in os.environ else "--benchmark-disable was given"
        pytest.fail(f"benchmarks are disabled: {why}. Run them in one process, without -n.", pytrace=False)
    captured = shipped(name)

    with steady(chosen_device):
        pairs = PairedRounds(lambda: work_of(captured, kind, chosen_device), kind=kind, device=chosen_device)
        rounds = pairs.rounds_within(SECONDS, most=MAX_BLOCKS)
        benchmark.pedantic(pairs.time_work, setup=pairs.time_reference, rounds=rounds)
        measurement = pairs.measurement()

    images = IMAGES * (EVALUATIONS if kind == "inference" else 1)
    benchmark.extra_info.update(
        images_per_second=round(images / benchmark.stats.stats.median),
        ratio=round(measurement.ratio, 4),
        calibration=measurement.to_json(),
    )
    assert rounds == measurement.rounds
