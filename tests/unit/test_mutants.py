"""Each requirement against networks that break it, and only it: a table of mutant x requirement."""

from __future__ import annotations

import pytest

from harness.contracts import requirement_names
from harness.findings import Status
from tests.mutants import CONTRACT, EVERY_NETWORK, MUTANTS, SOUND, examined

# At least one of each requirement, and of each kind of trick; the others are their variants.
SAMPLE = frozenset(
    """
    Sound StartsAtZero BatchNormWithoutRunningStatistics CentresTheBatch ClampAfterHead CountsItsCalls
    DetachesTheMiddle DropoutLeftOn DropoutNotCalled DropoutTimesZero FieldOneNarrower LargerMaps LinearByEinsum
    LinearBySumOfProducts LogSoftmaxOverBatch MoreRowsOnLargerImages NeverCalledLayer OneParameterMore PoolsByTwo PoolsHalfTheMap
    PoolsOnSideBranch SoftmaxTwice SqueezesTheBatchAway TakesColours WeightsInLiteral
    """.split()  # noqa: SIM905 - rows of names read better
)

each_sound = pytest.mark.parametrize("name", [name for name in SOUND if EVERY_NETWORK or name in SAMPLE])
each_mutant = pytest.mark.parametrize("name", [name for name in MUTANTS if EVERY_NETWORK or name in SAMPLE])


@each_sound
def test_sound_networks_pass_in_full(name: str) -> None:
    """A network that breaks nothing passes every requirement, and the experiments agree."""
    assert [] == [finding.describe() for finding in examined(name) if finding.status is not Status.PASS]


@each_mutant
def test_the_requirement_that_is_broken_says_how(name: str) -> None:
    """The finding of a mutant's own requirement is a failure, for the reason that it was made for."""
    mutant = MUTANTS[name]
    own = next(finding for finding in examined(name) if finding.requirement == mutant.breaks)

    assert (Status.FAIL, True) == (own.status, mutant.says in own.describe()), own.describe()


@each_mutant
def test_no_other_requirement_changes_its_mind(name: str) -> None:
    """All else passes, but for the companions that the mutant names with a reason."""
    mutant = MUTANTS[name]
    expected = dict.fromkeys(requirement_names(CONTRACT), Status.PASS)
    expected[mutant.breaks] = Status.FAIL
    expected |= {requirement: companion.status for requirement, companion in mutant.companions.items()}

    assert expected == {finding.requirement: finding.status for finding in examined(name)}


def test_every_requirement_has_a_mutant() -> None:
    """What the contract asks is what the mutants break, those of the sample alone."""
    broken = {MUTANTS[name].breaks for name in SAMPLE - SOUND.keys()}

    assert set(requirement_names(CONTRACT)) == broken
