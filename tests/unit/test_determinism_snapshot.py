from __future__ import annotations

import random

import numpy as np
import torch

from harness.determinism.snapshot import NUMPY_RANDOM, PYTHON_RANDOM, TORCH_RANDOM, StateSnapshot
from tests.determinism_models import CPU, Buffered


def test_a_snapshot_names_and_restores_what_changed() -> None:
    """Tensors, attributes that no state_dict holds, and random states are compared, and restored by name."""
    module = Buffered()
    before = StateSnapshot(module, CPU)
    with torch.no_grad():
        module.conv.weight += 1
    module.count += 1
    module.calls = 2
    torch.rand(1, generator=module.noise)
    torch.rand(1)
    random.random()  # noqa: S311 - what is tested
    np.random.rand()  # noqa: NPY002 - what is tested
    changed = before.changed(StateSnapshot(module, CPU))
    before.restore(module, changed)

    assert {
        TORCH_RANDOM,
        PYTHON_RANDOM,
        NUMPY_RANDOM,
        "parameter conv.weight",
        "buffer count",
        "attribute calls",
        "attribute noise",
    } == set(changed)
    assert () == before.changed(StateSnapshot(module, CPU))
