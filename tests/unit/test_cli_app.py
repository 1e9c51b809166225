"""The command line as a whole: help, usage errors, exit codes, and lazy imports."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import click
import pytest

import harness.contracts
import harness.sources
from harness import __version__
from harness.cli.app import app
from harness.errors import ExaminerError
from harness.findings import Finding, Status
from tests.documents import schema_errors

Command = Callable[..., tuple[int, str, str]]


def raiser(error: BaseException) -> Callable[..., NoReturn]:
    """A function that raises the error, whatever the arguments."""

    def fail(*_: object, **__: object) -> NoReturn:
        raise error

    return fail


def commands_below(group: click.Group) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command of a group, at any depth, with the names that call it."""
    for name, below in group.commands.items():
        yield (name,), below
        if isinstance(below, click.Group):
            yield from (((name, *names), deeper) for names, deeper in commands_below(below))


def test_help_imports_no_large_package() -> None:
    """--help does not import PyTorch, numpy or rich."""
    code = (
        "import sys\n"
        "from harness.cli.app import run\n"
        "code = run(['--help'])\n"
        "print(code, *sorted({'torch', 'torchvision', 'numpy', 'rich'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert result.stdout.splitlines()[0].startswith("Usage: harness")
    assert "0" == result.stdout.splitlines()[-1]


def test_the_module_is_the_command() -> None:
    """`python -m harness` runs the command and exits with its exit code."""
    result = subprocess.run([sys.executable, "-m", "harness", "chekc"], capture_output=True, text=True, check=False)

    assert 2 == result.returncode
    assert "No such command 'chekc'" in result.stderr


def test_every_option_has_a_help_text(command: Command) -> None:
    """Each command prints its help with exit code 0, and each option has a help text that ends with a period."""
    for names, subcommand in commands_below(app):
        code, out, _ = command(*names, "--help")
        unexplained = [
            parameter.name
            for parameter in subcommand.params
            if isinstance(parameter, click.Option) and not (parameter.help or "").endswith((".", '"'))
        ]

        assert (0, []) == (code, unexplained)
        assert out.startswith(f"Usage: {' '.join(('harness', *names))}")


def test_help_names_the_exit_codes(command: Command) -> None:
    """The help explains each exit code."""
    _, out, _ = command("--help")

    assert [] == [word for word in ("0", "1", "2", "3", "4", "130") if f" {word} " not in " ".join(out.split())]


def test_version(command: Command) -> None:
    """--version prints the version of the package."""
    assert command("--version") == (0, f"harness, version {__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("chekc", "reference"), "No such command 'chekc'"),
        (("check",), "Missing argument 'MODEL'"),
        (("check", "reference", "--nosuch"), "No such option"),
        (("train", "reference", "--seed", "-1"), "is not in the range"),
        (("train", "reference", "--seed", str(2**63)), "is not in the range"),
        (("train", "reference", "--seed", "one"), "not a valid integer"),
        (("train", "reference", "--epochs", "0"), "is not in the range"),
        (("check", "reference", "--contract", "era-s8"), "there is no contract 'era-s8': did you mean era-s"),
        (("train", "reference", "--recipe", "nosuch"), "expected a recipe, got 'nosuch'. Use a TOML file, or a name"),
        (("train", "reference", "--recipe", "nosuch.toml"), "expected a recipe file, got path='nosuch.toml'"),
        (("train", "reference", "--device", "tpu", "--data", "digits"), "device='tpu'. Use one of: auto, cpu"),
        (("verify", "reference", "--data", "nosuch"), "expected the four MNIST files in nosuch"),
        (("verify", "reference", "--data", "mnist"), "--data digits"),
    ],
)
@pytest.mark.usefixtures("quick_load")
def test_wrong_input_is_an_error_message(arguments: tuple[str, ...], words: str, command: Command) -> None:
    """A usage or input error is exit code 2 with a message that names the fault, without a traceback."""
    code, out, err = command(*arguments)

    assert (2, "") == (code, out)
    assert words in " ".join(err.split())
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("status", "expected"),
    [(Status.PASS, 0), (Status.SKIP, 0), (Status.FAIL, 1), (Status.UNKNOWN, 3), (Status.ERROR, 4)],
)
@pytest.mark.usefixtures("quick_load")
def test_exit_code_of_a_finding(
    status: Status, expected: int, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exit code and the verdict line follow from the findings."""
    finding = Finding(requirement="tails", status=status, expected="two", observed="one")
    monkeypatch.setattr(harness.contracts, "examine", lambda *_, **__: (finding,))

    code, out, _ = command("check", "cloud_2", "--contract", "era-s7")

    assert expected == code
    assert out.splitlines()[-1].startswith(status.value.upper())


@pytest.mark.parametrize(
    ("error", "expected", "words"),
    [
        (
            ExaminerError("the graph contradicts itself"),
            4,
            "internal error of the harness: the graph contradicts itself.",
        ),
        (KeyError("layer"), 4, "internal error of the harness: KeyError: 'layer'."),
        (PermissionError(13, "Permission denied", "runs"), 2, "Permission denied: 'runs'. Check the path"),
        (KeyboardInterrupt(), 130, "error: interrupted"),
        (KeyboardInterrupt("interrupted after 3 of 15 epochs"), 130, "error: interrupted after 3 of 15 epochs"),
    ],
)
def test_exit_code_of_an_exception(
    error: BaseException, expected: int, words: str, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every exception becomes one message and an exit code; internal errors have an exit code of their own."""
    monkeypatch.setattr(harness.sources, "load", raiser(error))

    code, out, err = command("check", "cloud_2")

    assert (code, out) == (expected, "")
    assert words in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "error", "expected"),
    [
        (("check", "cloud_2", "--nosuch"), None, 2),
        (("check", "cloud_2", "--contract", "nosuch"), None, 2),
        (("check", "cloud_2"), KeyError("layer"), 4),
        (("check", "cloud_2"), KeyboardInterrupt(), 130),
        (("check", "cloud_2"), MemoryError(), 2),
        (
            ("check", "cloud_2"),
            RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 4 bytes."),
            2,
        ),
    ],
)
@pytest.mark.parametrize("joined", [False, True])
def test_a_refusal_replaces_an_older_document(
    arguments: tuple[str, ...],
    error: BaseException | None,
    expected: int,
    joined: bool,  # noqa: FBT001 - a parameter of pytest
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Whatever ends a command, the file of --json holds that, and not the result of an earlier command."""
    path = tmp_path / "found.json"
    path.write_text('{"status": "pass"}', encoding="utf-8")
    if error is not None:
        monkeypatch.setattr(harness.sources, "load", raiser(error))
    code, _, err = command(*arguments, *([f"--json={path}"] if joined else ["--json", path]))
    document = json.loads(path.read_text(encoding="utf-8"))

    assert (expected, expected, "error") == (code, document["exit_code"], document["status"])
    assert document["message"].split()[-1] in err
    assert [] == schema_errors(document)


def test_a_refusal_replaces_an_older_page(command: Command, tmp_path: Path) -> None:
    """The page of --html says that there is no result, and why."""
    path = tmp_path / "page.html"
    path.write_text("PASS", encoding="utf-8")
    code, _, _ = command("check", "nosuch", f"--html={path}")
    page = path.read_text("utf-8")

    assert 2 == code
    assert "No result: error" in page
    assert "no shipped model is called &#39;nosuch&#39;" in page


def test_a_refusal_without_a_place_for_it_is_told(command: Command, tmp_path: Path) -> None:
    """Where the document cannot be written the message and the exit code are those of the error."""
    code, _, err = command("check", "nosuch", "--json", tmp_path / "nosuch" / "found.json")

    assert (2, True) == (code, "does not exist" in " ".join(err.split()))
    assert [] == list(tmp_path.iterdir())


def test_debug_shows_the_traceback(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """--debug prints the traceback before the message."""
    monkeypatch.setattr(harness.sources, "load", raiser(KeyError("layer")))

    code, _, err = command("check", "cloud_2", "--debug")

    assert 4 == code
    assert err.startswith("Traceback")
    assert err.splitlines()[-1].startswith("error: internal error of the harness")
