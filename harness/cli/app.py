"""The command group, and the translation of errors and findings into an exit code."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence

import click

from harness import __version__
from harness.cli.bench import bench
from harness.cli.bisect import bisect
from harness.cli.certify import certify
from harness.cli.check import check
from harness.cli.compare import compare
from harness.cli.console import print_error
from harness.cli.contract import contract
from harness.cli.doctor import doctor
from harness.cli.evaluate import evaluate
from harness.cli.golden import golden
from harness.cli.list import list_models
from harness.cli.power import power
from harness.cli.replay import replay
from harness.cli.replicate import replicate
from harness.cli.repro import repro
from harness.cli.show import show
from harness.cli.train import train
from harness.cli.verify import verify
from harness.errors import ExaminerError, HarnessError

INPUT_ERROR = 2
INTERNAL_ERROR = 4
INTERRUPTED = 130

_EPILOG = """Exit codes: 0 all requirements hold; 1 a requirement failed; 2 the input or the usage is wrong; 3 undecided;
4 internal error of the harness; 130 interrupted."""


@click.group(
    name="harness", context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}, epilog=_EPILOG
)
@click.version_option(__version__, prog_name="harness")
def app() -> None:
    """Examine small image classifiers, and show the evidence for each result.

    MODEL is the name of a shipped model (see `harness list`), a file (net.py, net.ipynb), a folder, a class in one of these
    (net.py:Net), or a class in a package (package.module:Net).
    """


_COMMANDS = (
    list_models,
    show,
    check,
    train,
    verify,
    certify,
    compare,
    replicate,
    power,
    evaluate,
    contract,
    repro,
    bisect,
    replay,
    golden,
    bench,
    doctor,
)
for command in _COMMANDS:
    app.add_command(command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its exit code."""
    # OpenMP threads that wait for work spin for some microseconds and then sleep. Sleeping at once delays the operations of a
    # small network; spinning forever slows training down several times on a busy machine. Results are the same either way. The
    # variables are read when torch is imported.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "30000")
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run the command line; returns the exit code."""
    try:
        code = app.main(args=list(arguments), prog_name="harness", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return INPUT_ERROR
    except (KeyboardInterrupt, click.Abort) as error:
        # click raises Abort without a message; the KeyboardInterrupt with its message about an unfinished run is the cause.
        print_error(str(error.__cause__ or error) or "interrupted")
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the outermost layer: every error becomes a message and an exit code
        if "--debug" in arguments:
            traceback.print_exception(error)
        return _report(error)
    return int(code or 0)


def _report(error: Exception) -> int:
    """Print an error; returns the exit code."""
    match error:
        case ExaminerError():
            message = str(error)
        case HarnessError():
            print_error(str(error))
            return INPUT_ERROR
        case OSError():
            print_error(f"{error}. Check the path, the permissions and the free space, and try again")
            return INPUT_ERROR
        case _:
            message = f"{type(error).__name__}: {error}"
    print_error(
        f"internal error of the harness: {message}. This is a defect in the harness, not in the model; run the command again "
        "with --debug and report the traceback"
    )
    return INTERNAL_ERROR
