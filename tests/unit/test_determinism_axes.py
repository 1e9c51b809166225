from __future__ import annotations

import pytest

from harness.determinism.axes import Axis, compared
from harness.findings import Status
from harness.reproducibility.comparison import Cause, Difference

DIFFERENCE = Difference(step=3, kind="order", cause=Cause.ORDER)


@pytest.mark.parametrize("axis", [axis for axis in Axis if axis not in (Axis.THREADS, Axis.DETERMINISTIC)])
def test_a_difference_fails_a_guaranteed_axis(axis: Axis) -> None:
    """Equal bits pass; a difference fails, and without another cause the evidence is what the difference suggests."""
    found = compared(axis, DIFFERENCE)

    assert (Status.PASS, "bit-equal") == (compared(axis, None).status, compared(axis, None).observed)
    assert (Status.FAIL, "differs at step 3 in the order of the images") == (found.status, found.observed)
    assert ("likely cause, derived from the first difference: data order",) == found.evidence


@pytest.mark.parametrize("axis", [Axis.THREADS, Axis.DETERMINISTIC])
def test_a_difference_is_skipped_on_an_axis_without_guarantee(axis: Axis) -> None:
    """Where no platform guarantees equal bits, a difference is reported and is no failure."""
    found = compared(axis, DIFFERENCE, evidence=("shown",), hint="change it")

    assert (Status.SKIP, "differs at step 3 in the order of the images (not guaranteed)") == (
        found.status,
        found.observed,
    )
    assert (("shown",), "change it") == (found.evidence, found.hint)
