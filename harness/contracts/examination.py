"""Check a captured model against a contract."""

from __future__ import annotations

from dataclasses import replace

from harness.contracts.contract import Contract
from harness.contracts.requirement import ExaminedModel, Requirement
from harness.findings import Finding, Status
from harness.graph import CapturedModel, computing_threads
from harness.structure import Experiments, Structure

# Experiments on a model up to this size take a second or two, and are run unless the caller says otherwise.
PROBED_PARAMETERS = 100_000
_REPORT = "the error is a defect of the harness, not of the model: please report the finding together with the model"


def examine(captured: CapturedModel, contract: Contract, *, probe: bool | None = None) -> tuple[Finding, ...]:
    """Decide whether a captured model meets each structure requirement of a contract; one finding for each.

    If ``probe`` is true, or None and the model has at most 100,000 parameters, experiments confirm the decisions; a
    requirement whose experiment contradicts the decision gets an ``error`` finding. A requirement whose decision raises an
    exception also gets an ``error`` finding, and the other requirements are still decided.
    """
    structure = Structure(captured.graph, captured.state)
    model = ExaminedModel(captured=captured, structure=structure, experiments=Experiments(captured, structure))
    if probe is None:
        probe = structure.parameters.total <= PROBED_PARAMETERS
    with computing_threads(1):
        return tuple(_decided(requirement, model, probe=probe) for requirement in contract.requirements)


def _decided(requirement: Requirement, model: ExaminedModel, *, probe: bool) -> Finding:
    try:
        finding = requirement.decide(model)
        confirmation = requirement.confirm(model) if probe else None
    except Exception as error:  # noqa: BLE001 - an internal error of the harness must not hide the other findings
        return Finding(
            requirement=requirement.name,
            status=Status.ERROR,
            expected=requirement.expected,
            observed=f"internal error: {type(error).__name__}: {error}",
            hint=_REPORT,
        )
    if confirmation is None:
        return finding
    if confirmation.agrees:
        return replace(finding, evidence=(*finding.evidence, f"experiment: {confirmation.observed}"))
    return replace(
        finding,
        status=Status.ERROR,
        observed=f"graph and experiment disagree; by the graph: {finding.observed}; by experiment: {confirmation.observed}",
        hint=_REPORT,
    )
