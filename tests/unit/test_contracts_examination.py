"""The examination as a whole: internal errors, and decisions that an experiment contradicts."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from harness.contracts import examine, load_contract
from harness.contracts.features import GlobalAveragePooling
from harness.contracts.requirement import Confirmation, ExaminedModel
from harness.errors import ContractError
from harness.findings import Status
from harness.graph import CapturedModel
from harness.structure import Structure

Shipped = Callable[[str], CapturedModel]


def test_an_internal_error_hides_nothing(shipped: Shipped, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever one requirement raises becomes its `error` finding; the others are decided."""
    for error in (KeyError("no such view"), ContractError("odd")):

        def broken(_: Structure, error: Exception = error) -> object:
            raise error

        monkeypatch.setattr(GlobalAveragePooling, "look", staticmethod(broken))
        findings = {
            found.requirement: found for found in examine(shipped("reference"), load_contract("era-s7"), probe=False)
        }
        gap = findings.pop("gap")
        assert (Status.ERROR, type(error).__name__) == (gap.status, gap.observed.split(": ")[1])
        assert "defect of the harness" in gap.hint
        assert {Status.PASS} == {found.status for found in findings.values()}
        assert {"capture", "input", "output", "parameters", "dropout", "batch_norm"} == findings.keys()


def test_an_experiment_confirms_or_contradicts(shipped: Shipped, monkeypatch: pytest.MonkeyPatch) -> None:
    """An experiment that agrees becomes evidence; one that disagrees makes the finding an error that quotes both."""
    for agrees, status in ((True, Status.PASS), (False, Status.ERROR)):

        def confirm(_: object, model: ExaminedModel, *, agrees: bool = agrees) -> Confirmation:
            assert model.captured.name == "reference"
            return Confirmation(agrees=agrees, observed="the output changes")

        monkeypatch.setattr(GlobalAveragePooling, "confirm", confirm)
        findings = examine(shipped("reference"), load_contract("era-s7"), probe=True)
        gap = next(found for found in findings if found.requirement == "gap")
        assert status == gap.status
        if agrees:
            assert "experiment: the output changes" == gap.evidence[-1]
        else:
            assert gap.observed.startswith("graph and experiment disagree; by the graph: present: ")
            assert gap.observed.endswith("by experiment: the output changes")
            assert "defect of the harness" in gap.hint
