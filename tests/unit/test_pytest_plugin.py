"""The pytest plugin, in a scratch project of a user's without any configuration."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from xml.etree import ElementTree as ET

import pytest

import harness.sources
from harness.contracts import examine, load_contract
from harness.errors import ModelSourceError
from harness.graph import CapturedModel

REQUIREMENTS = (*load_contract("era-s7").requirement_names, "epochs", "accuracy")

# Over budget, and without global average pooling, dropout and batch norm.
NET = """\
from torch import nn


class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(784, 20), nn.ReLU(), nn.Linear(20, 10), nn.LogSoftmax(1))
"""


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A folder with the user's network in it, and nothing else."""
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    pytester.path.joinpath("net.py").write_text(NET, encoding="utf-8")
    return pytester


@pytest.fixture
def run(project: pytest.Pytester) -> Callable[..., pytest.RunResult]:
    """Runs pytest in the project, in this process."""
    return lambda *arguments: project.runpytest_inprocess("-p", "no:cacheprovider", *arguments)


def cases(project: pytest.Pytester) -> dict[str, ET.Element]:
    """The cases of the JUnit file by name."""
    root = ET.parse(project.path / "junit.xml").getroot()  # noqa: S314 - written by the pytest just run
    return {case.attrib["name"]: case for case in root.iter("testcase")}


@pytest.mark.smoke  # a whole process: slow
def test_a_users_file_from_the_command_line(project: pytest.Pytester) -> None:
    """`pytest --harness-model net.py:Net` in a bare folder: an item and a JUnit case for each requirement."""
    command = ["--harness-model", "net.py:Net", "--harness-contract", "era-s7", "--junitxml=junit.xml", "-q"]
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *command],
        cwd=project.path,
        capture_output=True,
        text=True,
        check=False,
    )
    found = cases(project)
    outcomes = {name: [child.tag for child in case] for name, case in found.items()}
    failing, skipped = {"parameters", "gap", "dropout", "batch_norm"}, {"epochs", "accuracy"}

    assert 1 == result.returncode, result.stdout + result.stderr
    assert list(REQUIREMENTS) == list(found)
    assert failing == {name for name, outcome in outcomes.items() if outcome == ["failure"]}
    assert skipped == {name for name, outcome in outcomes.items() if outcome == ["skipped"]}
    assert "15,910 parameters" in (found["parameters"][0].text or "")


@pytest.mark.usefixtures("quick_load")
@pytest.mark.parametrize("name", ["rf_study_5"])
def test_a_failure_reads_like_the_finding(
    name: str,
    project: pytest.Pytester,
    run: Callable[..., pytest.RunResult],
    shipped: Callable[[str], CapturedModel],
) -> None:
    """A requirement that fails prints its finding word for word, and no traceback."""
    findings = {finding.requirement: finding for finding in examine(shipped(name), load_contract("era-s7"))}

    result = run("--harness-model", name, "--junitxml=junit.xml")
    output = "\n".join(line.rstrip() for line in result.outlines)

    result.assert_outcomes(passed=len(REQUIREMENTS) - 3, failed=1, skipped=2)
    assert findings["parameters"].describe() in output
    assert findings["parameters"].describe() in (cases(project)["parameters"][0].text or "")
    assert "Traceback" not in output
    assert "pytest_plugin.py" not in output


@pytest.mark.usefixtures("quick_load")
def test_accuracy_is_skipped_with_the_reason(run: Callable[..., pytest.RunResult]) -> None:
    """What a plugin that trains nothing cannot decide is skipped, and says where it is decided."""
    result = run("--harness-model", "cloud_2", "-rs")

    result.stdout.fnmatch_lines(["SKIPPED*at least 99.4 %*in each of the last 3 epochs*use harness verify*"])
    assert result.ret == pytest.ExitCode.OK


@pytest.mark.usefixtures("quick_load")
def test_requirements_are_chosen_by_name(run: Callable[..., pytest.RunResult]) -> None:
    """-k picks requirements as it picks tests."""
    run("--harness-model", "cloud_2", "-k", "gap or dropout").assert_outcomes(
        passed=2, deselected=len(REQUIREMENTS) - 2
    )


@pytest.mark.usefixtures("quick_load")
def test_two_models_are_told_apart(run: Callable[..., pytest.RunResult]) -> None:
    """The option may be repeated; each item says which model it is about."""
    result = run("--harness-model", "cloud_2", "--harness-model", "rf_study_5", "-v")

    result.assert_outcomes(passed=2 * len(REQUIREMENTS) - 5, failed=1, skipped=4)
    result.stdout.fnmatch_lines(["*cloud_2*parameters PASSED*", "*rf_study_5*parameters FAILED*"])


@pytest.mark.usefixtures("quick_load")
def test_the_projects_own_tests_run_beside_it(project: pytest.Pytester, run: Callable[..., pytest.RunResult]) -> None:
    """The user's own tests are collected as ever."""
    project.path.joinpath("test_own.py").write_text("def test_own():\n    pass\n", encoding="utf-8")

    run("--harness-model", "cloud_2").assert_outcomes(passed=len(REQUIREMENTS) - 2 + 1, skipped=2)


def test_a_model_that_cannot_be_loaded(run: Callable[..., pytest.RunResult], monkeypatch: pytest.MonkeyPatch) -> None:
    """The failure is the one paragraph that the command line prints, and no requirement passes."""
    message = "importing net.py failed in line 3: OSError: no such data. Expected a file that only defines the model"

    def refuse(*_: object, **__: object) -> None:
        raise ModelSourceError(message)

    monkeypatch.setattr(harness.sources, "load_model", refuse)
    result = run("--harness-model", "net.py")

    assert result.parseoutcomes() == {"failed": len(REQUIREMENTS)}
    result.stdout.fnmatch_lines([message])
    result.stdout.no_fnmatch_line("*Traceback*")


@pytest.mark.parametrize(
    ("contract", "words"),
    [("era-s8", "there is no contract 'era-s8'"), ("broken.toml", "'parametres' is not a known key")],
)
def test_a_contract_that_cannot_be_read_is_a_usage_error(
    contract: str, words: str, project: pytest.Pytester, run: Callable[..., pytest.RunResult]
) -> None:
    """A wrong contract ends the run before any test, with the reason."""
    project.path.joinpath("broken.toml").write_text("[parametres]\nbelow = 8000\n", encoding="utf-8")

    result = run("--harness-model", "net.py", "--harness-contract", contract)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert words in result.stderr.str() + result.stdout.str()


def test_it_costs_nothing_where_it_is_not_used(project: pytest.Pytester) -> None:
    """In a project that does not ask for it the plugin is there, and PyTorch is not imported."""
    project.makepyfile("import sys\ndef test_own():\n    assert 'torch' not in sys.modules")

    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q"],
        cwd=project.path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert 0 == result.returncode, result.stdout
    assert "1 passed" in result.stdout
