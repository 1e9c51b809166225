"""The two output streams: results on standard output, messages on standard error."""

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

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_CODES = {Status.ERROR: 4, Status.FAIL: 1, Status.UNKNOWN: 3, Status.PASS: 0, Status.SKIP: 0}


class _Stream(io.FileIO):
    """A standard stream that discards what it cannot write instead of raising; ``lost`` is the first error."""

    lost: OSError | None = None

    def write(self, data: Any, /) -> int:  # noqa: ANN401 - any buffer
        try:
            return super().write(data) or 0
        except OSError as problem:
            self.lost = self.lost or problem
            return memoryview(data).nbytes


def open_streams() -> Callable[[], OSError | None]:
    """Replace stdout and stderr by streams that never raise, and escape characters they cannot encode.

    Returns:
        A function that flushes standard output and returns its first write error, or None.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # A file opened later would get the number of the closed stream, and the messages.
            os.open(os.devnull, os.O_RDWR)
    out, err = (_Stream(descriptor, "w", closefd=False) for descriptor in (1, 2))
    # A path or a name can hold what the terminal's encoding lacks.
    encoding, escape = getattr(sys.stdout, "encoding", None), "backslashreplace"
    sys.stdout = io.TextIOWrapper(io.BufferedWriter(out), encoding, escape, line_buffering=out.isatty())
    sys.stderr = io.TextIOWrapper(io.BufferedWriter(err), encoding, escape, line_buffering=True)

    def finish() -> OSError | None:
        sys.stdout.flush()
        return out.lost

    return finish


class Output:
    """The result of a command: text on standard output and, with ``--json``, a document in a file.

    With ``--json -`` the document replaces the text.

    Args:
        target: the argument of ``--json``; ``None`` without the option.
    """

    def __init__(self, target: str | None) -> None:
        self._target = target

    def print(self, *renderables: RenderableType) -> None:
        """Print text, tables and other rich renderables, one below the other."""
        if self._target != "-":
            console = plain_console()
            for renderable in renderables:
                console.print(renderable)

    def print_unwrapped(self, text: str) -> None:
        """Print text without wrapping its lines at the width of the terminal."""
        if self._target != "-":
            click.echo(text)

    def write(self, kind: str, content: Mapping[str, Any]) -> None:
        """Write ``content`` as a JSON document of the schema ``harness.<kind>/1``, if the option was given.

        Raises:
            InputError: the file cannot be written.
        """
        from harness.reporting import document

        self.write_document(document(kind, content))

    def write_document(self, document: Mapping[str, Any]) -> None:
        """Write a complete JSON document, if the option was given.

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
    """A rich console without markup; 120 characters wide where there is no terminal (a pipe, CI), not rich's 80."""
    from rich.console import Console

    width = None if (sys.stderr if stderr else sys.stdout).isatty() else 120
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False, width=width)


def announce(sentence: str) -> None:
    """Print a message to stderr."""
    click.echo(sentence, err=True)


def print_error(message: str) -> None:
    """Print an error message: a paragraph, and the list after it if there is one."""
    paragraph, *items = message.split("\n- ")
    text = " ".join(paragraph.split()) + one_a_line(items)
    click.echo(click.style("error: ", fg="red", bold=True) + text, err=True)


def exit_code(findings: Iterable[Finding]) -> int:
    """4 for an internal error of the harness, else 1 if a requirement failed, else 3 if one is undecided, else 0."""
    return _CODES[overall(findings)]
