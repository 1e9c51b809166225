"""A pytest plugin: one test item for each requirement of a contract.

    pytest --harness-model net.py:Net --harness-contract era-s7

Without these options the plugin imports nothing but pytest.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.errors import HarnessError
from harness.findings import Finding, Status

if TYPE_CHECKING:
    from harness.contracts import Contract


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the command-line options."""
    group = parser.getgroup("harness", "check an image classifier against a contract")
    group.addoption(
        "--harness-model",
        action="append",
        default=[],
        metavar="MODEL",
        help="Model to check: the name of a shipped model, net.py, net.py:Net or package.module:Net. May be repeated.",
    )
    group.addoption(
        "--harness-contract",
        default="era-s7",
        metavar="NAME|FILE",
        help="Contract to check: a built-in name or a TOML file (default: %(default)s).",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Add one test item per requirement for each ``--harness-model``."""
    for model in config.getoption("--harness-model"):
        collector = ModelCollector.from_parent(session, name=model, nodeid=model)
        try:
            items.extend(collector.collect())
        except HarnessError as error:
            raise pytest.UsageError(str(error)) from error


class ModelCollector(pytest.Collector):
    """Collects the requirements of one model."""

    def collect(self) -> Iterator[RequirementItem]:
        """One item for each requirement of the contract."""
        from harness.contracts import load_contract  # noqa: PLC0415 - only when an option asks for it

        contract = load_contract(self.config.getoption("--harness-contract"))
        examination = _Examination(self.name, contract)
        skipped = () if contract.accuracy is None else ("epochs", "accuracy")
        for requirement in (*contract.requirement_names, *skipped):
            yield RequirementItem.from_parent(self, name=requirement, examination=examination)


class _Examination:
    """The findings of one model, computed when the first item needs them."""

    def __init__(self, model: str, contract: Contract) -> None:
        self.model = model
        self.contract = contract
        self._outcome: dict[str, Finding] | HarnessError | None = None

    def finding(self, requirement: str) -> Finding:
        """The finding of one requirement.

        Raises:
            HarnessError: the model could not be loaded or captured; raised again for every requirement.
        """
        if self._outcome is None:
            try:
                self._outcome = self._examine()
            except HarnessError as error:
                self._outcome = error
        if isinstance(self._outcome, HarnessError):
            raise self._outcome
        return self._outcome[requirement]

    def _examine(self) -> dict[str, Finding]:
        from harness.certification import ConsistencyRule  # noqa: PLC0415
        from harness.contracts import examine  # noqa: PLC0415
        from harness.sources import load_model  # noqa: PLC0415

        contract = self.contract
        findings = examine(load_model(self.model, input_shape=contract.input_shape), contract)
        if contract.accuracy is not None:
            rule = ConsistencyRule.from_table(contract.accuracy, where=f"contract {contract.name}: [accuracy]")
            findings += rule.skipped("not checked: the plugin does not train, use harness verify")
        return {finding.requirement: finding for finding in findings}


class FindingError(Exception):
    """A requirement does not hold; the message is the text of the finding."""


class RequirementItem(pytest.Item):
    """One requirement of one model."""

    def __init__(self, *, examination: _Examination, **kwargs: Any) -> None:  # noqa: ANN401 - pytest's own arguments
        super().__init__(**kwargs)
        self.examination = examination

    def runtest(self) -> None:
        """Fail with the text of the finding, or skip."""
        finding = self.examination.finding(self.name)
        if finding.status is Status.SKIP:
            pytest.skip(f"{finding.expected}: {finding.observed}")
        if finding.status is not Status.PASS:
            raise FindingError(finding.describe())

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:  # noqa: ANN401 - pytest's own types
        """The message alone for a finding or an error of the harness, the traceback for other exceptions."""
        if isinstance(excinfo.value, FindingError | HarnessError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """The location and the title of the item."""
        title = f"{self.examination.model} :: {self.examination.contract.name} :: {self.name}"
        return self.config.rootpath, None, title
