from __future__ import annotations

import os
import random
import secrets
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from harness.determinism.interventions import Interventions

DRAWS: dict[str, Callable[[], float]] = {
    "random": random.random,
    "numpy.random": np.random.rand,
    "time": time.time,
    "os.urandom": lambda: secrets.token_bytes(4),  # type: ignore[dict-item,return-value]
    "id()": lambda: id(object()),
}


@pytest.mark.parametrize("name", DRAWS)
def test_a_pinned_source_repeats_itself(name: str) -> None:
    """Pinned, a source returns the same values twice; released alone, it does not."""
    kept = []

    def draw() -> list[object]:
        if name == "id()":
            # Kept alive, so that the next ones have other addresses.
            kept.extend([object(), object()])
            return [id(thing) for thing in kept[-2:]]
        # Looked up at each call: the functions of a module are replaced.
        return [time.time() if name == "time" else DRAWS[name]() for _ in range(2)]

    def twice(released: frozenset[str]) -> list[list[object]]:
        drawn = []
        for _ in range(2):
            with interventions.pinned(released, reimport=lambda: None):
                drawn.append(draw())
        return drawn

    with Interventions() as interventions:
        pinned, released = twice(frozenset()), twice(frozenset({name}))

    assert pinned[0] == pinned[1]
    assert pinned[0][0] != pinned[0][1]
    assert released[0] != released[1]
    assert name in ("random", "numpy.random") or Path(__file__).name in interventions.callers[name]


def test_interventions_are_undone() -> None:
    """After the block every function is the original, and a generator without a seed is unpredictable."""
    before = (time.time, time.monotonic_ns, os.urandom, random.Random.seed, id)
    with Interventions() as interventions:
        assert time.time is not before[0]
        with interventions.pinned(frozenset(), reimport=lambda: None):
            equal = [random.Random().random() for _ in range(2)]  # noqa: S311 - what is tested

    assert equal[0] == equal[1]
    assert before == (time.time, time.monotonic_ns, os.urandom, random.Random.seed, id)
    assert random.Random().random() != random.Random().random()  # noqa: S311 - what is tested
