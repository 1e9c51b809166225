"""A pytest plugin: one test item for each requirement of a contract.

    pytest --harness-model net.py:Net --harness-contract era-s7

Nothing is imported but pytest until the first option is used.
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

_DEFAULT_CONTRACT = "era-s7"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options."""
    group = parser.getgroup("harness", "examine an image classifier")
    group.addoption(
        "--harness-model",
        action="append",
        default=[],
        metavar="MODEL",
        help="Examine this model: a shipped name, net.py, net.py:Net or package.module:Net. May be repeated.",
    )
    group.addoption(
        "--harness-contract",
        default=_DEFAULT_CONTRACT,
        metavar="NAME|FILE",
        help="The contract: a built-in name or a TOML file (default: %(default)s).",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Add one item a requirement for each model asked for."""
    for model in config.getoption("--harness-model"):
        collector = ModelCollector.from_parent(session, name=model, nodeid=model)
        try:
            items.extend(collector.collect())
        except HarnessError as error:
            raise pytest.UsageError(str(error)) from error


class ModelCollector(pytest.Collector):
    """The requirements of one model."""

    def collect(self) -> Iterator[RequirementItem]:
        """One item for each requirement that the contract asks."""
        from harness.contracts import load_contract  # noqa: PLC0415 - only when an option asks for it

        contract = load_contract(self.config.getoption("--harness-contract"))
        examination = _Examination(self.name, contract)
        for requirement in examination.requirements(contract.requirement_names):
            yield RequirementItem.from_parent(self, name=requirement, examination=examination)


class _Examination:
    """The findings of one model, made when the first item asks for them."""

    def __init__(self, model: str, contract: Contract) -> None:
        self.model = model
        self.contract = contract
        self._outcome: dict[str, Finding] | HarnessError | None = None

    def requirements(self, structure: tuple[str, ...]) -> tuple[str, ...]:
        """Names of everything that the contract asks, what is skipped here included."""
        return structure + (("epochs", "accuracy") if self.contract.accuracy is not None else ())

    def finding(self, requirement: str) -> Finding:
        """The finding of one requirement.

        Raises:
            HarnessError: the model could not be loaded or captured; the same for every requirement.
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

        captured = load_model(self.model, input_shape=self.contract.input_shape)
        findings = examine(captured, self.contract)
        if self.contract.accuracy is not None:
            rule = ConsistencyRule.from_table(
                self.contract.accuracy, where=f"contract {self.contract.name}: [accuracy]"
            )
            findings += rule.skipped("not asked: the plugin trains nothing, harness verify does")
        return {finding.requirement: finding for finding in findings}


class FindingError(Exception):
    """A requirement that does not hold; its text is the finding's."""


class RequirementItem(pytest.Item):
    """One requirement of one model."""

    def __init__(self, *, examination: _Examination, **kwargs: Any) -> None:  # noqa: ANN401 - pytest's own arguments
        super().__init__(**kwargs)
        self.examination = examination

    def runtest(self) -> None:
        """Fail with the finding's text, or skip what is not asked here."""
        finding = self.examination.finding(self.name)
        if finding.status is Status.SKIP:
            pytest.skip(f"{finding.expected}: {finding.observed}")
        if finding.status is not Status.PASS:
            raise FindingError(finding.describe())

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:  # noqa: ANN401 - pytest's own types
        """A finding or a harness error is its own explanation; anything else keeps its traceback."""
        if isinstance(excinfo.value, FindingError | HarnessError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """Where the item comes from, and what it is called."""
        return (
            self.config.rootpath,
            None,
            f"{self.examination.model} :: {self.examination.contract.name} :: {self.name}",
        )
