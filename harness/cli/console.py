"""The two output streams of a command: results on standard output, messages on standard error."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.errors import one_a_line
from harness.findings import Finding, Status, overall
from harness.tables import printable

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_CODES = {Status.ERROR: 4, Status.FAIL: 1, Status.UNKNOWN: 3, Status.PASS: 0, Status.SKIP: 0}


class _Stream(io.FileIO):
    """A standard stream that discards data that cannot be written, without raising; ``lost`` is the first error of a write."""

    lost: OSError | None = None

    def write(self, data: Any, /) -> int:  # noqa: ANN401 - any buffer
        try:
            return super().write(data) or 0
        except OSError as problem:
            self.lost = self.lost or problem
            return memoryview(data).nbytes


def open_streams() -> Callable[[], OSError | None]:
    """Replace stdout and stderr by streams that do not raise if a write fails, and that escape characters they cannot encode.

    Returns:
        A function that flushes standard output and returns the first error of a write to standard output, or None.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # Otherwise a file opened later would get the number of the closed stream, and messages would be written to the file.
            os.open(os.devnull, os.O_RDWR)
    out, err = (_Stream(descriptor, "w", closefd=False) for descriptor in (1, 2))
    # A path or a name can contain characters that the terminal's encoding cannot represent.
    encoding, escape = getattr(sys.stdout, "encoding", None), "backslashreplace"
    sys.stdout = io.TextIOWrapper(io.BufferedWriter(out), encoding, escape, line_buffering=out.isatty())
    sys.stderr = io.TextIOWrapper(io.BufferedWriter(err), encoding, escape, line_buffering=True)

    def finish() -> OSError | None:
        sys.stdout.flush()
        return out.lost

    return finish


class Output:
    """Writes the result of a command: text to standard output and, with ``--json``, a JSON document to a file.

    With ``--json -`` the document is written to standard output instead of the text.

    Args:
        target: the argument of ``--json``; ``None`` without the option.
    """

    def __init__(self, target: str | None) -> None:
        self._target = target

    def print(self, *renderables: RenderableType) -> None:
        """Print text, tables and other rich renderables one below the other, unless ``--json -`` was given."""
        if self._target != "-":
            console = plain_console()
            for renderable in renderables:
                console.print(renderable)

    def print_unwrapped(self, text: str) -> None:
        """Print text with long lines left unwrapped, unless ``--json -`` was given."""
        if self._target != "-":
            click.echo(printable(text))

    def write(self, kind: str, content: Mapping[str, Any]) -> None:
        """Write ``content`` as a JSON document with the schema ``harness.<kind>/1``, if ``--json`` was given.

        Raises:
            InputError: the file cannot be written.
        """
        from harness.reporting import document

        self.write_document(document(kind, content))

    def write_document(self, document: Mapping[str, Any]) -> None:
        """Write a complete JSON document, if ``--json`` was given.

        Raises:
            InputError: the file cannot be written.
        """
        if self._target is None:
            return
        text = json.dumps(document, indent=2, allow_nan=False) + "\n"
        if self._target == "-":
            click.echo(text, nl=False)
            return
        from harness.files import write_whole

        write_whole(Path(self._target), text.encode())


def plain_console(*, stderr: bool = False) -> Console:
    """Return a rich console without markup; 120 characters wide, instead of rich's 80, if the stream is not a terminal.

    Control characters in names and texts that others wrote, which a terminal would obey, are printed as their code.
    """
    from rich.console import Console, ConsoleOptions
    from rich.segment import Segment

    class VisibleConsole(Console):
        def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
            for segment in super().render(renderable, options):
                yield segment if segment.control else segment._replace(text=printable(segment.text))

    width = None if (sys.stderr if stderr else sys.stdout).isatty() else 120
    return VisibleConsole(stderr=stderr, highlight=False, markup=False, emoji=False, width=width)


def announce(sentence: str) -> None:
    """Print a message to standard error."""
    click.echo(printable(sentence), err=True)


def print_error(message: str) -> None:
    """Print an error message to standard error: a paragraph, then the items of the message's list, if any, one per line."""
    paragraph, *items = message.split("\n- ")
    text = printable(" ".join(paragraph.split()) + one_a_line(items))
    coloured = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    click.echo((click.style("error: ", fg="red", bold=True) if coloured else "error: ") + text, err=True)


def exit_code(findings: Iterable[Finding]) -> int:
    """Return the exit code for findings: 4 if a status is error, else 1 if one is fail, else 3 if one is unknown, else 0."""
    return _CODES[overall(findings)]
