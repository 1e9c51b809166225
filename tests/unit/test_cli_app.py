"""The command line as a whole: help, usage errors, exit codes, and what is imported when."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import NoReturn

import click
import pytest

import harness.contracts
import harness.sources
from harness import __version__
from harness.cli.app import app
from harness.errors import ExaminerError
from harness.findings import Finding, Status

Command = Callable[..., tuple[int, str, str]]


def raiser(error: BaseException) -> Callable[..., NoReturn]:
    """A function that raises, whatever it is called with."""

    def fail(*_: object, **__: object) -> NoReturn:
        raise error

    return fail


def commands_below(group: click.Group) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command of a group, at any depth, with the words that call it."""
    for name, below in group.commands.items():
        yield (name,), below
        if isinstance(below, click.Group):
            yield from (((name, *names), deeper) for names, deeper in commands_below(below))


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    """The help is there before PyTorch, numpy or rich would be."""
    code = (
        "import sys\n"
        "from harness.cli.app import run\n"
        "code = run(['--help'])\n"
        "print(code, *sorted({'torch', 'torchvision', 'numpy', 'rich'} & set(sys.modules)))"
    )
    began = time.perf_counter()

    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    # A process that imported torch would take seconds; the bound leaves room for a busy machine.
    assert time.perf_counter() - began < 2.5
    assert result.stdout.splitlines()[0].startswith("Usage: harness")
    assert result.stdout.splitlines()[-1] == "0"


def test_module_and_command_are_one() -> None:
    """`python -m harness` is the command, exit code included."""
    result = subprocess.run([sys.executable, "-m", "harness", "chekc"], capture_output=True, text=True, check=False)

    assert result.returncode == 2
    assert "No such command 'chekc'" in result.stderr


def test_every_command_explains_itself(command: Command) -> None:
    """Each command answers --help with its purpose, its options explained, and exit code 0."""
    for names, subcommand in commands_below(app):
        code, out, _ = command(*names, "--help")
        unexplained = [
            parameter.name
            for parameter in subcommand.params
            if isinstance(parameter, click.Option) and not parameter.help
        ]

        assert (code, unexplained) == (0, [])
        assert out.startswith(f"Usage: {' '.join(('harness', *names))}")


def test_help_names_the_exit_codes(command: Command) -> None:
    """The help says what each exit code means."""
    _, out, _ = command("--help")

    assert [word for word in ("0", "1", "2", "3", "4", "130") if f" {word} " not in " ".join(out.split())] == []


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
        (("train", "reference", "--recipe", "nosuch.toml"), "expected a recipe file, got path='nosuch.toml'"),
        (("train", "reference", "--device", "tpu", "--data", "digits"), "device='tpu'. Use one of: auto, cpu"),
        (("verify", "reference", "--data", "nosuch"), "Expected the four MNIST files in nosuch"),
        (("verify", "reference", "--data", "mnist"), "--data digits"),
    ],
)
@pytest.mark.usefixtures("quick_load")
def test_wrong_input_is_told_in_a_paragraph(arguments: tuple[str, ...], words: str, command: Command) -> None:
    """A usage or input error ends with exit code 2, names what was wrong, and shows no traceback."""
    code, out, err = command(*arguments)

    assert (code, out) == (2, "")
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
    """The exit code follows from what was found, and the verdict says the same."""
    finding = Finding(requirement="tails", status=status, expected="two", observed="one")
    monkeypatch.setattr(harness.contracts, "examine", lambda *_, **__: (finding,))

    code, out, _ = command("check", "cloud_2", "--contract", "era-s7")

    assert expected == code
    assert out.splitlines()[-1].startswith(status.value.upper())


@pytest.mark.parametrize(
    ("error", "expected", "words"),
    [
        (ExaminerError("the graph contradicts itself"), 4, "the examiner itself failed: the graph contradicts itself."),
        (KeyError("layer"), 4, "the examiner itself failed: KeyError: 'layer'."),
        (PermissionError(13, "Permission denied", "runs"), 2, "Permission denied: 'runs'. Check the path"),
        (KeyboardInterrupt(), 130, "error: interrupted"),
        (KeyboardInterrupt("interrupted after 3 of 15 epochs"), 130, "error: interrupted after 3 of 15 epochs"),
    ],
)
def test_exit_code_of_an_exception(
    error: BaseException, expected: int, words: str, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is raised becomes one paragraph and an exit code; the examiner's own failures are no verdict."""
    monkeypatch.setattr(harness.sources, "load_model", raiser(error))

    code, out, err = command("check", "cloud_2")

    assert (code, out) == (expected, "")
    assert words in err
    assert "Traceback" not in err


def test_debug_shows_where_the_examiner_failed(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --debug the traceback comes before the message."""
    monkeypatch.setattr(harness.sources, "load_model", raiser(KeyError("layer")))

    code, _, err = command("check", "cloud_2", "--debug")

    assert code == 4
    assert err.startswith("Traceback")
    assert err.splitlines()[-1].startswith("error: the examiner itself failed")
