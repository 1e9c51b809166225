"""The pytest plugin of mnist-harness: one test item for each requirement of a contract.

    pytest --harness-model net.py:Net --harness-contract era-s7

This module is outside the package `harness` and imports the package only if ``--harness-model`` is given, because a
project may have another package named `harness`.
"""

from __future__ import annotations

from collections.abc import Generator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from harness.contracts import Contract
    from harness.findings import Finding

_NOTES = pytest.StashKey[list[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options ``--harness-model`` and ``--harness-contract``."""
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


def pytest_configure(config: pytest.Config) -> None:
    """With ``--harness-model``, continue after collection errors, so that broken tests do not prevent the check."""
    config.stash[_NOTES] = []
    if config.getoption("--harness-model"):
        config.option.continue_on_collection_errors = True


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """With ``--harness-model``, report a test file that calls ``exit()`` on import as a collection error; the run continues."""
    try:
        return (yield)
    except SystemExit as error:
        if not collector.config.getoption("--harness-model"):
            raise
        return pytest.CollectReport(
            collector.nodeid, "failed", f"{collector.name} calls exit({error.code}) when imported", []
        )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """For each model given with ``--harness-model``, add one test item per requirement of the contract."""
    models = config.getoption("--harness-model")
    if not models:
        return
    spec = find_spec("harness")
    found = Path(spec.origin or "").resolve() if spec else None
    if found != Path(__file__).resolve().with_name("harness") / "__init__.py":
        raise pytest.UsageError(
            f"--harness-model: expected the package harness of mnist-harness, got another package harness, {found}. Run "
            "`pytest`, not `python -m pytest`, in a folder without a package harness, or use `harness check`"
        )
    from harness.contracts import load_contract  # noqa: PLC0415 - only when an option asks for it
    from harness.errors import HarnessError  # noqa: PLC0415

    try:
        contract = load_contract(config.getoption("--harness-contract"))
    except HarnessError as error:
        raise pytest.UsageError(str(error)) from error
    for model in models:
        items.extend(session.genitems(ModelCollector.from_parent(session, name=model, nodeid=model, contract=contract)))


def pytest_report_collectionfinish(config: pytest.Config) -> list[str]:
    """Return the sentences about the loading of the models, such as which class was chosen, for the terminal."""
    return config.stash[_NOTES]


class ModelCollector(pytest.Collector):
    """Collects one test item for each requirement of a contract; the model is loaded and examined once."""

    def __init__(self, *, contract: Contract, **kwargs: Any) -> None:  # noqa: ANN401 - pytest's own arguments
        super().__init__(**kwargs)
        self.contract = contract

    def collect(self) -> list[RequirementItem]:
        """Load and examine the model; return one test item for each requirement of the contract."""
        from harness.certification import ConsistencyRule  # noqa: PLC0415
        from harness.contracts import examine  # noqa: PLC0415
        from harness.sandbox import layers_line  # noqa: PLC0415
        from harness.sources import load  # noqa: PLC0415

        contract, notes = self.contract, self.config.stash[_NOTES]
        loaded = load(self.name, input_shape=contract.input_shape, announce=notes.append)
        if loaded.layers:
            notes.append(f"sandbox: {layers_line(loaded.layers)}")
        findings = examine(loaded.model, contract)
        if contract.accuracy is not None:
            rule = ConsistencyRule.from_table(contract.accuracy, where=f"contract {contract.name}: [accuracy]")
            findings += rule.skipped("not checked: the plugin does not train, use harness verify")
        return [RequirementItem.from_parent(self, name=one.requirement, finding=one) for one in findings]

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], _style: Any = None) -> Any:  # noqa: ANN401 - pytest's own types
        """Return only the message for an error of the harness, and the traceback for any other exception."""
        from harness.errors import HarnessError  # noqa: PLC0415

        return str(excinfo.value) if isinstance(excinfo.value, HarnessError) else super().repr_failure(excinfo)


class FindingError(Exception):
    """A requirement is not met; the message is the text of the finding."""


class RequirementItem(pytest.Item):
    """A test item for one requirement of one model."""

    def __init__(self, *, finding: Finding, **kwargs: Any) -> None:  # noqa: ANN401 - pytest's own arguments
        super().__init__(**kwargs)
        self.finding = finding

    def runtest(self) -> None:
        """Skip if the finding was skipped; fail with the text of the finding if the requirement is not met or undecided."""
        if self.finding.status == "skip":
            pytest.skip(f"{self.finding.expected}: {self.finding.observed}")
        if self.finding.status != "pass":
            raise FindingError(self.finding.describe())

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:  # noqa: ANN401 - pytest's own types
        """Return only the text of the finding for a failed requirement, and the traceback for any other exception."""
        return str(excinfo.value) if isinstance(excinfo.value, FindingError) else super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """Return the location and the title of the test item."""
        parent = self.parent
        contract = f"{parent.contract.name} :: " if isinstance(parent, ModelCollector) else ""
        return self.config.rootpath, None, f"{parent.name if parent else ''} :: {contract}{self.name}"
