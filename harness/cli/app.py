"""The command group, and the translation of errors and results into an exit code."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import click

from harness import __version__
from harness.cli.audit import audit
from harness.cli.bench import bench
from harness.cli.bisect import bisect
from harness.cli.certify import certify
from harness.cli.check import check
from harness.cli.compare import compare
from harness.cli.console import Output, open_streams, print_error
from harness.cli.contract import contract
from harness.cli.doctor import doctor
from harness.cli.evaluate import evaluate
from harness.cli.golden import golden
from harness.cli.grade import grade
from harness.cli.gradecheck import gradecheck
from harness.cli.list import list_models
from harness.cli.power import power
from harness.cli.replay import replay
from harness.cli.replicate import replicate
from harness.cli.repro import repro
from harness.cli.show import show
from harness.cli.train import train
from harness.cli.verify import verify
from harness.errors import ExaminerError, HarnessError
from harness.findings import Status

INPUT_ERROR = 2
OUTPUT_LOST = 3
INTERNAL_ERROR = 4
INTERRUPTED = 130

_EPILOG = """Exit codes: 0 all requirements hold; 1 a requirement failed; 2 the input or the usage is wrong; 3 undecided, or
the output could not be written; 4 internal error of the harness; 130 interrupted."""

# Parts of the messages of torch's allocators on a CPU and on CUDA.
_OUT_OF_MEMORY = ("not enough memory", "can't allocate memory", "out of memory")


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
    audit,
    power,
    evaluate,
    grade,
    gradecheck,
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
    """Run the command line with ``arguments``, by default the arguments of the process, and exit with the exit code."""
    # OpenMP threads that wait for work spin for some microseconds and then sleep. Sleeping at once delays the operations of a
    # small network; spinning forever slows training down several times on a busy machine. Results are the same either way. The
    # variables are read when torch is imported.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "30000")
    lost = open_streams()
    _interrupt_on("SIGTERM", "SIGHUP")
    code = run(sys.argv[1:] if arguments is None else arguments)
    # A pipe that its reader, such as head, closed early is no error. If a requirement failed, the exit code stays 1.
    problem = lost()
    if problem is not None and problem.errno != errno.EPIPE and code == 0:
        print_error(
            f"the result could not be written to standard output: {problem.strerror}. Free some space and try again"
        )
        code = OUTPUT_LOST
    sys.exit(code)


def _interrupt_on(*names: str) -> None:
    """Make signals that end a process interrupt the command, as Ctrl-C does, unless they are ignored, such as by nohup."""

    def interrupt(number: int, _: object) -> None:
        raise KeyboardInterrupt(f"interrupted by {signal.Signals(number).name}")

    for number in (getattr(signal, name) for name in names if hasattr(signal, name)):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, interrupt)


def run(arguments: Sequence[str]) -> int:
    """Run the command line and return the exit code; an error is also written to the files of ``--json`` and ``--html``."""
    try:
        return int(app.main(args=list(arguments), prog_name="harness", standalone_mode=False) or 0)
    except click.ClickException as error:
        code, message = INPUT_ERROR, error.format_message()
        error.show()
    except (KeyboardInterrupt, click.Abort) as error:
        # click raises Abort without a message; the KeyboardInterrupt with its message about an unfinished run is the cause.
        code, message = INTERRUPTED, str(error.__cause__ or error) or "interrupted"
        print_error(message)
    except Exception as error:  # noqa: BLE001 - the outermost layer: every error becomes a message and an exit code
        if "--debug" in arguments:
            traceback.print_exception(error)
        code, message = _explain(error)
        print_error(message)
    # The document or the page of an earlier run must not be taken for the result of this one.
    with contextlib.suppress(HarnessError, OSError, ValueError):
        content = {"status": "error", "exit_code": code, "message": message}
        Output(_argument(arguments, "--json")).write("error", content)
    with contextlib.suppress(HarnessError, OSError, ValueError):
        if page := _argument(arguments, "--html"):
            _write_error_page(Path(page), f"{message} (exit code {code})")
    return code


def _argument(arguments: Sequence[str], option: str) -> str | None:
    """Return the argument of an option, also after an error in the arguments."""
    named = dict(itertools.pairwise(arguments)).get(option)
    joined = (argument.removeprefix(f"{option}=") for argument in arguments if argument.startswith(f"{option}="))
    return next(joined, named)


def _write_error_page(path: Path, statement: str) -> None:
    from harness.files import write_whole
    from harness.reporting import Page, page_html

    write_whole(path, page_html(Page(title="No result", status=Status.ERROR, statement=statement)))


def _explain(error: Exception) -> tuple[int, str]:
    """Return the exit code and the message for an exception."""
    out_of_memory = isinstance(error, MemoryError) or any(words in str(error) for words in _OUT_OF_MEMORY)
    match error:
        case ExaminerError():
            message = str(error)
        case HarnessError():
            return INPUT_ERROR, str(error)
        case OSError():
            return INPUT_ERROR, f"{error}. Check the path, the permissions and the free space, and try again"
        case MemoryError() | RuntimeError() if out_of_memory:
            return INPUT_ERROR, "there is not enough memory for this model. Use smaller images, batches or layers"
        case _:
            message = f"{type(error).__name__}: {error}"
    return INTERNAL_ERROR, (
        f"internal error of the harness: {message}. This is a defect in the harness, not in the model; run the command again "
        "with --debug and report the traceback"
    )
