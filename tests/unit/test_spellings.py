"""One network in many spellings is one network, and what only looks like it is another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from harness.graph import CapturedModel, identity_digest
from mnist_models import list_models
from tests.mutants import EVERY_NETWORK
from tests.spellings import NEAR, SPELLINGS, digest_of_near, examined, original_of

# The others are variants of these.
SAMPLE = frozenset(
    """
    Sound Skipping AveragePoolOfMapSize FunctionalDropout IndexAway LogOfSoftmax MeanOfFlat ModuleListLoop
    NothingButFunctions NothingInBetween PadsFirst SumDivided SumOfList
    FrozenFirstLayer MaximumForAverage NormFirst OtherPadding OtherRate OwnWeights ScaledByNumber SharedWeights
    WeightedSum
    """.split()  # noqa: SIM905 - rows of names read better
)
SPELLED = [name for name in SPELLINGS if EVERY_NETWORK or name in SAMPLE]
NEARLY = [name for name in NEAR if EVERY_NETWORK or name in SAMPLE]

Shipped = Callable[[str], CapturedModel]

# The same network in two documents, or in two steps of one that differ in nothing but the recipe. The first of the pipeline's
# is no such twin: it has the layers of cloud_1, and another dropout rate.
TWINS = [("cloud_2", "pipeline_second"), ("cloud_3", "pipeline_third"), ("five_step_4", "five_step_5")]


@pytest.mark.parametrize("name", SPELLED)
def test_a_spelling_is_the_same_network(name: str) -> None:
    """Every spelling passes in full, with the figures and the identity of the first of its group."""
    first = examined(original_of(name).__name__)

    assert (dict.fromkeys(first.statuses, "pass"), first.figures, first.digest) == (
        examined(name).statuses,
        examined(name).figures,
        examined(name).digest,
    )


@pytest.mark.parametrize("name", SPELLED)
def test_a_spelling_computes_the_same(name: str) -> None:
    """From the same weights every spelling answers alike, up to rounding."""
    expected = examined(original_of(name).__name__).answers

    assert [pytest.approx(row, abs=1e-5) for row in expected] == examined(name).answers


@pytest.mark.parametrize("near", NEARLY)
def test_what_is_near_is_another_network(near: str) -> None:
    """One other setting is another identity."""
    assert digest_of_near(near) not in {examined("Sound").digest, examined("Skipping").digest}


def test_no_two_near_ones_are_the_same() -> None:
    """What differs from one network in different settings differs from each other."""
    shared = Counter(digest_of_near(near) for near in NEARLY)

    assert [] == [near for near in NEARLY if shared[digest_of_near(near)] > 1]


def test_the_sample_is_of_networks_that_exist() -> None:
    """Every name of the sample is a spelling, or near to one."""
    assert set() == SAMPLE - SPELLINGS.keys() - NEAR.keys()


def test_shipped_models_are_different_networks_but_for_three_pairs(shipped: Shipped) -> None:
    """Among the shipped models only the known twins share an identity."""
    groups: dict[str, list[str]] = {}
    for name in list_models():
        groups.setdefault(identity_digest(shipped(name).graph), []).append(name)

    assert TWINS == sorted(tuple(names) for names in groups.values() if len(names) > 1)
