"""The command group, and the one place that turns errors and findings into an exit code."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence

import click

from harness import __version__
from harness.cli.bench import bench
from harness.cli.bisect import bisect
from harness.cli.check import check
from harness.cli.console import complain
from harness.cli.contract import contract
from harness.cli.doctor import doctor
from harness.cli.evaluate import evaluate
from harness.cli.golden import golden
from harness.cli.list import list_models
from harness.cli.replay import replay
from harness.cli.repro import repro
from harness.cli.show import show
from harness.cli.train import train
from harness.cli.verify import verify
from harness.errors import ExaminerError, HarnessError

INTERRUPTED = 130
EXAMINER_FAILED = 4
INPUT_ERROR = 2

_EPILOG = """Exit codes: 0 everything asked for holds; 1 something failed; 2 the input or the usage is wrong; 3 undecided;
4 the examiner itself failed; 130 interrupted."""


@click.group(
    name="harness",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=_EPILOG,
)
@click.version_option(__version__, prog_name="harness")
def app() -> None:
    """Examine small image classifiers: what is true about a model, with evidence.

    MODEL is a shipped name (see `harness list`), a file (net.py), a class in a file (net.py:Net), or a class in a package
    (package.module:Net).
    """


for command in (
    list_models,
    show,
    check,
    train,
    verify,
    evaluate,
    contract,
    repro,
    bisect,
    replay,
    golden,
    bench,
    doctor,
):
    app.add_command(command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    # A thread without work waits awake for some microseconds, then sleeps: always asleep it would be late for a small network's
    # operations, always awake it makes a training on a busy machine several times slower. Read when torch is imported; changes
    # no figure.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "30000")
    given = list(sys.argv[1:] if arguments is None else arguments)
    sys.exit(run(given))


def run(arguments: Sequence[str]) -> int:
    """Run the command line; returns the exit code."""
    debug = "--debug" in arguments
    try:
        code = app.main(args=list(arguments), prog_name="harness", standalone_mode=False)
    except click.exceptions.Exit as exit_:
        return exit_.exit_code
    except click.ClickException as error:
        error.show()
        return INPUT_ERROR
    except (KeyboardInterrupt, click.Abort) as error:
        # click hides a KeyboardInterrupt, and what it says about an unfinished run, behind an Abort without words.
        complain(str(error.__cause__ or error) or "interrupted")
        return INTERRUPTED
    except HarnessError as error:
        return _failed(error, debug=debug)
    except Exception as error:  # noqa: BLE001 - the outermost layer: whatever it is, it becomes a message and a code
        return _failed(error, debug=debug)
    return int(code or 0)


def _failed(error: Exception, *, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    if isinstance(error, HarnessError) and not isinstance(error, ExaminerError):
        complain(str(error))
        return INPUT_ERROR
    if isinstance(error, OSError):
        complain(f"{error}. Check the path, the permissions and the free space, and try again")
        return INPUT_ERROR
    words = str(error) if isinstance(error, ExaminerError) else f"{type(error).__name__}: {error}"
    complain(
        f"the examiner itself failed: {words}. This is a defect of the harness; run again with --debug and report it"
    )
    return EXAMINER_FAILED
