from __future__ import annotations

import dataclasses

import pytest

from harness.determinism.attribution import SOURCES, NondeterminismSource, attribute

SOURCE, OTHER = (
    NondeterminismSource(name=name, words=f"uses {name}", hint=f"leave {name} out") for name in ("one", "other")
)


@pytest.mark.parametrize(
    ("effective", "causes"),
    [({"one"}, (SOURCE,)), ({"one", "other"}, (SOURCE, OTHER)), (set(), ())],
)
def test_a_cause_makes_a_difference_when_released(
    effective: set[str], causes: tuple[NondeterminismSource, ...]
) -> None:
    """The causes are the sources whose release makes the runs differ; each has its evidence and its hint."""
    found = attribute((SOURCE, OTHER), lambda released: "differs" if released & effective else None)

    assert causes == found.causes
    assert len(causes) == sum(line.startswith("cause: the code uses") for line in found.evidence)
    assert " ".join(cause.hint for cause in causes) == found.hint


def test_a_source_that_may_miss_is_released_again() -> None:
    """A source that makes a difference only sometimes is released as often as it says."""
    calls = []

    def sometimes(released: frozenset[str]) -> str | None:
        calls.append(released)
        return "differs" if released and len(calls) > 2 else None

    assert (dataclasses.replace(SOURCE, tries=2),) == attribute(
        (dataclasses.replace(SOURCE, tries=2),), sometimes
    ).causes
    calls.clear()
    assert () == attribute((SOURCE,), sometimes).causes


def test_without_an_effect_of_pinning_the_cause_is_unknown() -> None:
    """If the runs differ with all sources pinned, none of them is named as the cause."""
    found = attribute((SOURCE,), lambda _: "differs at step 3")

    assert ((), ("cause unknown: with one pinned, the run still differs at step 3",)) == (found.causes, found.evidence)


def test_source_names_are_unique() -> None:
    """No two sources share a name, since sources are released by name."""
    assert len(SOURCES) == len({source.name for source in SOURCES})
