"""Each requirement against networks that break it, and only it: a table of mutant x requirement."""

from __future__ import annotations

import pytest

from harness.findings import Status
from tests.made_up import EVERY_NETWORK
from tests.mutants import CONTRACT, MUTANTS, SOUND, examined

# One of each requirement; `tox -e thorough` examines all.
SAMPLE = frozenset(
    """
    Sound BatchNormWithoutRunningStatistics BiasBeforeNorm CentresTheBatch ClampAfterHead CountsItsCalls DetachesTheMiddle
    DropoutLeftOn FieldOneNarrower LargerMaps LinearByEinsum LogSoftmaxOverBatch NeverCalledLayer PoolsByTwo
    TakesColours
    """.split()  # noqa: SIM905 - rows of names read better
)


@pytest.mark.parametrize("name", [name for name in SOUND if EVERY_NETWORK or name in SAMPLE])
def test_sound_networks_pass_in_full(name: str) -> None:
    """A network that breaks nothing passes every requirement, and the experiments agree."""
    assert [] == [finding.describe() for finding in examined(name) if finding.status is not Status.PASS]


@pytest.mark.parametrize("name", [name for name in MUTANTS if EVERY_NETWORK or name in SAMPLE])
def test_a_mutant_is_caught_by_its_own_requirement(name: str) -> None:
    """It fails, for the reason the mutant was made for; all else passes, but for companions named with a reason."""
    mutant = MUTANTS[name]
    findings = {finding.requirement: finding for finding in examined(name)}
    expected = dict.fromkeys(CONTRACT.requirement_names, Status.PASS)
    expected[mutant.breaks] = Status.FAIL
    expected |= {requirement: companion.status for requirement, companion in mutant.companions.items()}

    assert expected == {requirement: finding.status for requirement, finding in findings.items()}
    assert mutant.says in findings[mutant.breaks].describe()


def test_every_requirement_has_a_mutant() -> None:
    """What the contract asks is what the mutants break, those of the sample alone."""
    broken = {MUTANTS[name].breaks for name in SAMPLE - SOUND.keys()}

    assert set(CONTRACT.requirement_names) == broken
