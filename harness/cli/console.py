"""Terminals: results on standard output, everything about the work on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import click

from harness.findings import Finding, Status, overall

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from harness.training import EpochResult, RunSpec, SeedOutcome

_CODES = {Status.ERROR: 4, Status.FAIL: 1, Status.UNKNOWN: 3, Status.PASS: 0, Status.SKIP: 0}
# Where a terminal's width is unknown (a pipe, CI), lines are not to be folded at 80 characters.
_PIPE_WIDTH = 120


def results() -> Console:
    """The console for results."""
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else _PIPE_WIDTH)


def notices() -> Console:
    """The console for progress and announcements."""
    from rich.console import Console

    return Console(
        stderr=True, highlight=False, markup=False, emoji=False, width=None if sys.stderr.isatty() else _PIPE_WIDTH
    )


def announce(sentence: str) -> None:
    """Say something about the work."""
    click.echo(sentence, err=True)


def complain(paragraph: str) -> None:
    """Say what went wrong, as one paragraph."""
    click.echo(click.style("error: ", fg="red", bold=True) + " ".join(paragraph.split()), err=True)


def exit_code(findings: Iterable[Finding]) -> int:
    """4 if the examiner failed somewhere, else 1 if something failed, else 3 if something is undecided, else 0."""
    return _CODES[overall(findings)]


def write_json(target: str | None, document: Mapping[str, Any]) -> None:
    """Write a document where ``--json`` says; ``-`` is standard output."""
    if target is None:
        return
    text = json.dumps(document, indent=2, allow_nan=False) + "\n"
    if target == "-":
        click.echo(text, nl=False)
        return
    from harness.files import write_whole

    write_whole(Path(target), text.encode())


class _Bar:
    """A bar that is set up once there is something to show, and taken down in any case."""

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._task: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()


class DownloadProgress(_Bar):
    """Shows a download as a bar of bytes on a terminal, and nothing elsewhere."""

    def __call__(self, done: int, total: int) -> None:
        """Move the bar; the first call sets it up."""
        if self._progress is None:
            from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

            console = notices()
            if not console.is_terminal:
                return
            self._progress = Progress(
                BarColumn(), DownloadColumn(), TimeRemainingColumn(), console=console, transient=True
            )
            self._task = self._progress.add_task("download", total=total)
            self._progress.start()
        self._progress.update(self._task, completed=done, total=total)


class TrainingProgress(_Bar):
    """Shows a training as it goes: a bar with step, accuracy and time left on a terminal, a line an epoch elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self._console = notices()
        self._epochs = 0

    def on_start(self, *, spec: RunSpec, steps: int, done: tuple[EpochResult, ...]) -> None:
        """Announce the run and set up the bar."""
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        recipe = spec.recipe
        self._epochs = recipe.epochs
        again = f", going on after epoch {len(done)}" if done else ""
        self._console.print(
            f"training on {spec.device}: {recipe.epochs} epochs of {steps} steps, {recipe.batch_size} images each{again}"
        )
        if self._console.is_terminal:
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[figures]}"),
                TimeRemainingColumn(),
                console=self._console,
                transient=True,
            )
            total = recipe.epochs * steps
            self._task = self._progress.add_task("epoch", total=total, completed=len(done) * steps, figures="")
            self._progress.start()

    def on_step(self, *, epoch: int, step: int, steps: int, loss: float, correct: int, seen: int) -> None:
        """Move the bar."""
        if self._progress is not None:
            self._progress.update(
                self._task,
                completed=(epoch - 1) * steps + step,
                description=f"epoch {epoch}/{self._epochs}",
                figures=f"loss {loss:.4f}  train {100 * correct / max(seen, 1):.2f} %",
            )

    def on_epoch(self, result: EpochResult) -> None:
        """Print the epoch's line."""
        self._console.print(
            f"epoch {result.epoch:>2}/{self._epochs}  "
            f"train {100 * result.train_correct / result.train_total:6.2f} %  "
            f"test {result.test_correct:,} of {result.test_total:,} "
            f"({100 * result.test_correct / result.test_total:.2f} %)  "
            f"loss {result.test_loss:.4f}  {result.seconds:.1f} s"
        )

    def on_warning(self, message: str) -> None:
        """Print a warning."""
        self._console.print(f"warning: {message}", style="yellow")


class SeedsProgress(_Bar):
    """Shows many seeds as they go: a bar over all steps on a terminal, and a line a seed that has ended."""

    def __init__(self, seeds: int) -> None:
        super().__init__()
        self._console = notices()
        self._seeds = seeds
        self._ended = 0
        self._done: dict[int, int] = {}
        self._steps = self._total = 0

    def on_seed_start(self, seed: int, *, epochs: int, steps: int, done: int) -> None:
        """Set the bar up with the first seed: only then it is known how many steps there are."""
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        self._steps = steps
        self._total = epochs * steps
        if self._progress is None and self._console.is_terminal:
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TaskProgressColumn(),
                TimeRemainingColumn(),
                console=self._console,
                transient=True,
            )
            self._task = self._progress.add_task("", total=(self._seeds - self._ended) * self._total)
            self._progress.start()
        self._move(seed, done * steps)

    def on_seed_step(self, seed: int, *, epoch: int, step: int) -> None:
        """Move the bar."""
        self._move(seed, (epoch - 1) * self._steps + step)

    def on_seed_epoch(self, seed: int, result: EpochResult) -> None:
        """An epoch's figures stand in the seed's record; here only the bar moves."""
        self._move(seed, result.epoch * self._steps)

    def on_seed_warning(self, seed: int, message: str) -> None:
        """Print a warning."""
        self.warn(f"seed {seed}: {message}")

    def on_seed_end(self, outcome: SeedOutcome) -> None:
        """Print how the seed ended."""
        self._ended += 1
        if self._progress is not None and outcome.seed in self._done:
            self._move(outcome.seed, self._total)
        record = outcome.record
        words = f"not finished: {outcome.problem}"
        if record:
            words = record.status
            if record.epochs:
                last = record.epochs[-1]
                words += f", epoch {last.epoch}: test {last.test_correct:,} of {last.test_total:,}"
        self._console.print(f"seed {outcome.seed}  {words}  ({self._ended} of {self._seeds})")

    def warn(self, message: str) -> None:
        """Print a warning."""
        self._console.print(f"warning: {message}", style="yellow")

    def _move(self, seed: int, steps: int) -> None:
        self._done[seed] = steps
        if self._progress is not None:
            description = f"{self._ended} of {self._seeds} seeds"
            self._progress.update(self._task, completed=sum(self._done.values()), description=description)
