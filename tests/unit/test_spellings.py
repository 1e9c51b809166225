"""One network in many spellings is one network, and what only looks like it is another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from harness.graph import CapturedModel, identity_digest
from mnist_models import list_models
from tests.spellings import NEAR, SPELLINGS, Examined, digest_of, examined, original_of
from tests.workers import EVERY_NETWORK, at_work

# The others are variants of these.
SAMPLE = frozenset(
    """
    Sound Skipping AveragePoolOfMapSize FunctionalDropout IndexAway LogOfSoftmax MeanOfFlat MeanTwice ModuleListLoop
    NothingButFunctions NothingInBetween PadsFirst ReluInPlace SumDivided SumOfList
    FrozenFirstLayer MaximumForAverage NormFirst OtherMomentum OtherPadding OtherRate OwnWeights ScaledByNumber SharedWeights
    WeightedSum
    """.split()  # noqa: SIM905 - rows of names read better
)
SPELLED = [name for name in SPELLINGS if EVERY_NETWORK or name in SAMPLE]
NEARLY = [name for name in NEAR if EVERY_NETWORK or name in SAMPLE]

Shipped = Callable[[str], CapturedModel]

# The same network in two documents, or in two steps of one that differ in nothing but the recipe. The first of the pipeline's
# is no such twin: it has the layers of cloud_1, and another dropout rate.
TWINS = [("cloud_2", "pipeline_second"), ("cloud_3", "pipeline_third"), ("five_step_4", "five_step_5")]


@pytest.fixture(scope="module")
def known(request: pytest.FixtureRequest) -> Iterator[Callable[[str], Examined]]:
    """What is known of a spelling, by name."""
    with at_work(examined, request) as results:
        yield results


@pytest.fixture(scope="module")
def digest(request: pytest.FixtureRequest) -> Iterator[Callable[[str], str]]:
    """The identity of what is only near to a spelling, by name."""
    with at_work(digest_of, request, argument="near") as results:
        yield results


@pytest.mark.parametrize("name", SPELLED)
def test_a_spelling_is_the_same_network(name: str, known: Callable[[str], Examined]) -> None:
    """Every spelling passes in full, with the figures and the identity of the first of its group."""
    first = known(original_of(name).__name__)

    assert (dict.fromkeys(first.statuses, "pass"), first.figures, first.digest) == (
        known(name).statuses,
        known(name).figures,
        known(name).digest,
    )


@pytest.mark.parametrize("name", SPELLED)
def test_a_spelling_computes_the_same(name: str, known: Callable[[str], Examined]) -> None:
    """From the same weights every spelling answers alike, up to rounding."""
    expected = known(original_of(name).__name__).answers

    assert [pytest.approx(row, abs=1e-5) for row in expected] == known(name).answers


@pytest.mark.parametrize("near", NEARLY)
def test_what_is_near_is_another_network(
    near: str, digest: Callable[[str], str], known: Callable[[str], Examined]
) -> None:
    """One other setting is another identity."""
    assert digest(near) not in {known("Sound").digest, known("Skipping").digest}


def test_no_two_near_ones_are_the_same(digest: Callable[[str], str]) -> None:
    """What differs from one network in different settings differs from each other."""
    shared = Counter(digest(near) for near in NEARLY)

    assert [] == [near for near in NEARLY if shared[digest(near)] > 1]


def test_the_sample_is_of_networks_that_exist() -> None:
    """Every name of the sample is a spelling, or near to one."""
    assert set() == SAMPLE - SPELLINGS.keys() - NEAR.keys()


def test_shipped_models_are_different_networks_but_for_three_pairs(shipped: Shipped) -> None:
    """Among the shipped models only the known twins share an identity."""
    groups: dict[str, list[str]] = {}
    for name in list_models():
        groups.setdefault(identity_digest(shipped(name).graph), []).append(name)

    assert TWINS == sorted(tuple(names) for names in groups.values() if len(names) > 1)
