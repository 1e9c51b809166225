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
from harness.sandbox import Layer, LayerState
from harness.sources import LoadedModel, parse_source

REQUIREMENTS = (*load_contract("era-s7").requirement_names, "epochs", "accuracy")

# Over budget, and without global average pooling, dropout and batch norm.
NET = """\
from torch import nn


class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(784, 20), nn.ReLU(), nn.Linear(20, 10), nn.LogSoftmax(1))
"""


@pytest.fixture(scope="module")
def imported(shipped: Callable[[str], CapturedModel]) -> None:
    """Import all that an examination imports: pytester forgets what a test imports, and PyTorch cannot be imported twice."""
    for name in ("cloud_2", "rf_study_5"):
        examine(shipped(name), load_contract("era-s7"))


@pytest.fixture
def project(
    imported: None,  # noqa: ARG001 - before pytester
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
) -> pytest.Pytester:
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
    """The failure is one error with the message that the command line prints, and no requirement passes."""
    message = "net.py contains 2 different networks. Name one of these:\n- net.py:A (1 parameter)\n- net.py:B"

    def refuse(*_: object, **__: object) -> None:
        raise ModelSourceError(message)

    monkeypatch.setattr(harness.sources, "load", refuse)
    result = run("--harness-model", "net.py")

    assert result.parseoutcomes() == {"errors": 1}
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["collected 0 items / 1 error", "*ERROR collecting net.py*", *message.split("\n")])
    result.stdout.no_fnmatch_line("*Traceback*")


@pytest.mark.parametrize("error", [ValueError("ours"), KeyError("ours")])
def test_a_defect_of_ours_has_its_traceback(
    error: Exception, run: Callable[..., pytest.RunResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that is no error of the harness is one error with a traceback."""

    def breaks(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(harness.sources, "load", breaks)
    result = run("--harness-model", "net.py")

    assert result.parseoutcomes() == {"errors": 1}
    result.stdout.fnmatch_lines([f"*{type(error).__name__}: *ours*"])


@pytest.mark.usefixtures("quick_load")
def test_items_are_counted(project: pytest.Pytester, run: Callable[..., pytest.RunResult]) -> None:
    """The line of the collection counts the requirements and the project's tests; choices of the loading are below it."""
    project.path.joinpath("test_own.py").write_text("def test_own():\n    pass\n", encoding="utf-8")
    count = len(REQUIREMENTS)

    run("--harness-model", "cloud_2").stdout.fnmatch_lines([f"collected {count + 1} items"])
    result = run("--harness-model", "cloud_2", "-k", "gap")
    result.stdout.fnmatch_lines([f"collected {count + 1} items / {count} deselected / 1 selected"])


def test_choices_are_shown(
    run: Callable[..., pytest.RunResult], monkeypatch: pytest.MonkeyPatch, shipped: Callable[[str], CapturedModel]
) -> None:
    """Which class of a file was taken, and which layers of the sandbox confined it, is said below the collection."""
    captured = shipped("cloud_2")

    def load(text: str, *, announce: Callable[[str], None], **__: object) -> LoadedModel:
        announce("taking net.py:Net, the only one")
        layers = (LayerState(layer=Layer.LANDLOCK, holds=True, detail="version 7"),)
        return LoadedModel(model=captured, source=parse_source(text), layers=layers)

    monkeypatch.setattr(harness.sources, "load", load)
    lines = ["collected * items", "taking net.py:Net, the only one", "sandbox: landlock"]
    run("--harness-model", "net.py").stdout.fnmatch_lines(lines)


@pytest.mark.usefixtures("quick_load")
@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ("import nosuch", "*No module named 'nosuch'*"),
        ("def test_(:", "*SyntaxError*"),
        ("import sys\nsys.exit(3)", "test_broken.py calls exit(3) when imported"),
        ("1 / 0", "*ZeroDivisionError*"),
    ],
)
def test_a_broken_test_file_does_not_keep_the_requirements_from_being_checked(
    broken: str, words: str, project: pytest.Pytester, run: Callable[..., pytest.RunResult]
) -> None:
    """A test file of the submission that cannot be collected is an error of its own; all requirements are checked."""
    project.path.joinpath("test_broken.py").write_text(broken, encoding="utf-8")

    result = run("--harness-model", "cloud_2")

    result.assert_outcomes(passed=len(REQUIREMENTS) - 2, skipped=2, errors=1)
    result.stdout.fnmatch_lines([words])


@pytest.mark.smoke  # a whole process: slow
@pytest.mark.parametrize("module", ["harness/__init__.py", "harness.py"])
def test_beside_a_project_with_a_package_of_that_name(module: str, project: pytest.Pytester) -> None:
    """A project with its own `harness` runs its tests as ever, and is told why its models cannot be checked there."""
    path = project.path / module
    path.parent.mkdir(exist_ok=True)
    path.write_text("OWN = 1\n", encoding="utf-8")
    project.makepyfile("import harness\ndef test_own():\n    assert harness.OWN == 1")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q"]
    outputs = [
        subprocess.run([*command, *options], cwd=project.path, capture_output=True, text=True, check=False)
        for options in ((), ("--harness-model", "net.py"))
    ]

    assert [0, 4] == [output.returncode for output in outputs], outputs[0].stdout + outputs[0].stderr
    assert "1 passed" in outputs[0].stdout
    assert f"got another package harness, {path.resolve()}. Run `pytest`" in outputs[1].stderr


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


@pytest.mark.smoke  # a whole process: slow
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
