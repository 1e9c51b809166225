"""How long a training step and an evaluation take: each shipped model on each device, beside the reference workload.

The network is the one that is trained, rebuilt from its captured graph. After a warm-up its rounds and those of the
reference workload take turns; `harness bench compare` reads both from the file that pytest-benchmark saves.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from typing import Any

import pytest
import torch

from harness.benchmarking import IMAGES, Kind, PairedRounds, steady
from harness.data import load_dataset
from harness.graph import CapturedModel
from harness.training import train_step
from mnist_models import list_models

pytestmark = pytest.mark.bench

# A hundred rounds, fewer of a large model.
ROUNDS, SECONDS, WARM_UP_ROUNDS = 100, 4.0, 3


def work_of(captured: CapturedModel, kind: Kind, device: torch.device) -> Callable[[], torch.Tensor]:
    """A training step without augmentation, or an evaluation, of images that stay the same: time depends on shapes."""
    module, data = captured.to_module().to(device), load_dataset("digits").to(device)
    images, labels = data.normalise(data.train_images[: IMAGES[kind]]), data.train_labels[: IMAGES[kind]]
    if kind == "inference":
        module.eval()

        def answer() -> torch.Tensor:
            with torch.no_grad():
                output: torch.Tensor = module(images)
            return output

        return answer
    optimizer = torch.optim.SGD(module.train().parameters(), lr=0.01, momentum=0.9)
    return lambda: train_step(module, optimizer, images, labels)[0]


@pytest.mark.parametrize("kind", ["training", "inference"])
@pytest.mark.parametrize("name", list_models())
def test_speed(
    name: str,
    kind: Kind,
    chosen_device: torch.device,
    shipped: Callable[[str], CapturedModel],
    benchmark: Any,  # noqa: ANN401 - its class is not typed
) -> None:
    """Rounds of the model's work, in turn with the reference workload's; both are saved."""
    if benchmark.disabled:
        why = "pytest-xdist is active" if "PYTEST_XDIST_WORKER" in os.environ else "--benchmark-disable was given"
        pytest.fail(f"nothing would be measured: {why}. Run the benchmarks in one process, without -n.", pytrace=False)
    captured = shipped(name)

    with steady(chosen_device):
        work = work_of(captured, kind, chosen_device)
        pairs = PairedRounds(work, kind=kind, device=chosen_device)
        rounds = pairs.rounds_within(SECONDS, most=ROUNDS)
        benchmark.pedantic(pairs.time_work, setup=pairs.time_reference, rounds=rounds, warmup_rounds=WARM_UP_ROUNDS)
        measurement = pairs.measurement(rounds)

    benchmark.extra_info.update(
        images_per_second=round(IMAGES[kind] / benchmark.stats.stats.median),
        ratio=round(measurement.ratio, 4),
        calibration=dataclasses.asdict(measurement),
    )
    assert work().isfinite().all()
