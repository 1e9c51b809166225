"""One network written in many ways has one identity, and what only looks like it has another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from harness.graph import CapturedModel
from harness.structure import identity_digest
from mnist_models import list_models
from tests.made_up import EVERY_NETWORK
from tests.spellings import NEAR, SPELLINGS, digest_of_near, examined, original_of

# The others are variants of these.
SAMPLE = frozenset(
    """
    Sound FunctionalDropout NothingButFunctions SumDivided NormFirst OtherPadding
    """.split()  # noqa: SIM905 - rows of names read better
)

Shipped = Callable[[str], CapturedModel]

# The same network in two documents, or in two steps of one that differ in nothing but the recipe. The first of the pipeline's
# is no such twin: it has the layers of cloud_1, and another dropout rate.
TWINS = [("cloud_2", "pipeline_second"), ("cloud_3", "pipeline_third"), ("five_step_4", "five_step_5")]


@pytest.mark.parametrize("name", [name for name in SPELLINGS if EVERY_NETWORK or name in SAMPLE])
def test_a_spelling_is_the_same_network(name: str) -> None:
    """It passes in full, with the figures, the identity and, up to rounding, the outputs of the first of its group."""
    first, other = examined(original_of(name).__name__), examined(name)

    assert dict.fromkeys(first.statuses, "pass") == other.statuses
    assert (first.figures, first.digest) == (other.figures, other.digest)
    assert [pytest.approx(row, abs=1e-5) for row in first.outputs] == other.outputs


def test_what_is_near_is_another_network() -> None:
    """One other setting is another identity, and every setting its own."""
    near = {name: digest_of_near(name) for name in NEAR if EVERY_NETWORK or name in SAMPLE}
    shared = Counter([*near.values(), examined("Sound").digest, examined("Skipping").digest])

    assert [] == [name for name, digest in near.items() if shared[digest] > 1]


def test_the_sample_is_of_networks_that_exist() -> None:
    """Every name of the sample is a spelling, or near to one."""
    assert set() == SAMPLE - SPELLINGS.keys() - NEAR.keys()


@pytest.mark.smoke
def test_shipped_models_are_different_networks_but_for_three_pairs(shipped: Shipped) -> None:
    """Among the shipped models only the known twins share an identity."""
    groups: dict[str, list[str]] = {}
    for name in list_models():
        groups.setdefault(identity_digest(shipped(name).graph), []).append(name)

    assert TWINS == sorted(tuple(names) for names in groups.values() if len(names) > 1)
