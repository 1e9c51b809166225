"""Progress bars of downloads and trainings, on standard error; lines of text if standard error is not a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from harness.cli.console import plain_console
from harness.findings import percent

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn

    from harness.grading import Verdict
    from harness.training import EpochResult, RunSpec, SeedOutcome


class _Bar:
    """A progress bar that appears with the first update and is removed when the ``with`` block ends."""

    def __init__(self) -> None:
        self._console = plain_console(stderr=True)
        self._progress: Progress | None = None
        self._task: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def _start(self, *columns: ProgressColumn, total: int, done: int = 0) -> None:
        """Start the bar, with the time left as the last column, unless the bar has started or stderr is not a terminal."""
        from rich.progress import Progress, TimeRemainingColumn

        if self._progress is None and self._console.is_terminal:
            self._progress = Progress(*columns, TimeRemainingColumn(), console=self._console, transient=True)
            self._task = self._progress.add_task("", total=total, completed=done, figures="")
            self._progress.start()

    def _move(self, done: int, **shown: Any) -> None:  # noqa: ANN401 - what rich accepts
        if self._progress is not None:
            self._progress.update(self._task, completed=done, **shown)

    def on_warning(self, message: str) -> None:
        """Print a warning to standard error."""
        self._console.print(f"warning: {message}", style="yellow")


class DownloadProgress(_Bar):
    """Shows a download on standard error as a bar of bytes; shows nothing if standard error is not a terminal."""

    def __call__(self, done: int, total: int) -> None:
        """Show ``done`` of ``total`` bytes in the bar; the first call starts the bar."""
        from rich.progress import BarColumn, DownloadColumn

        self._start(BarColumn(), DownloadColumn(), total=total)
        self._move(done, total=total)


class TrainingProgress(_Bar):
    """Observes a training: shows a bar with step, accuracy and time left on a terminal, and prints one line per epoch."""

    _epochs = 0

    def on_start(self, *, spec: RunSpec, steps: int, done: tuple[EpochResult, ...]) -> None:
        """Print the device, the number of epochs and steps and the batch size, and start the bar."""
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn

        self._epochs = spec.recipe.epochs
        resumed = f", resuming after epoch {len(done)}" if done else ""
        self._console.print(
            f"training on {spec.device}: {self._epochs} epochs of {steps} steps, batch size {spec.recipe.batch_size}{resumed}"
        )
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
        )
        self._start(*columns, total=self._epochs * steps, done=len(done) * steps)

    def on_step(self, *, epoch: int, step: int, steps: int, loss: float, correct: int, seen: int) -> None:
        """Show the epoch, the step, the loss and the training accuracy so far in the bar."""
        figures = f"loss {loss:.4f}  train {percent(correct, max(seen, 1))}"
        self._move((epoch - 1) * steps + step, description=f"epoch {epoch}/{self._epochs}", figures=figures)

    def on_epoch(self, result: EpochResult) -> None:
        """Print the results of the epoch as one line."""
        self._console.print(
            f"epoch {result.epoch:>2}/{self._epochs}  "
            f"train {percent(result.train_correct, result.train_total):>8}  "
            f"test {result.test_correct:,} of {result.test_total:,} "
            f"({percent(result.test_correct, result.test_total)})  "
            f"loss {result.test_loss:.4f}  {result.seconds:.1f} s"
        )


class SeedsProgress(_Bar):
    """Observes the training of many seeds: shows a bar over all steps on a terminal, and prints one line per finished seed."""

    def __init__(self, seeds: int, *, done: int = 0) -> None:
        """Of ``seeds`` seeds in all, ``done`` have ended earlier; no outcome of those will be reported."""
        super().__init__()
        self._seeds, self._before = seeds, done
        self._ended: set[int] = set()
        self._done: dict[int, int] = {}
        self._steps = self._total = 0

    def on_seed_start(self, seed: int, *, epochs: int, steps: int, done: int) -> None:
        """Start the bar when the first seed starts; the number of steps is unknown before."""
        from rich.progress import BarColumn, TaskProgressColumn, TextColumn

        self._steps, self._total = steps, epochs * steps
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
        self._start(*columns, total=(self._seeds - self._count) * self._total)
        self._move_seed(seed, done * steps)

    def on_seed_step(self, seed: int, *, epoch: int, step: int) -> None:
        """Count the step of the seed in the bar."""
        self._move_seed(seed, (epoch - 1) * self._steps + step)

    def on_seed_epoch(self, seed: int, result: EpochResult) -> None:
        """Count the steps of the epoch in the bar; prints nothing, because the seed's run record has the results."""
        self._move_seed(seed, result.epoch * self._steps)

    def on_seed_warning(self, seed: int, message: str) -> None:
        """Print a warning with the seed to standard error."""
        self.on_warning(f"seed {seed}: {message}")

    def on_seed_end(self, outcome: SeedOutcome) -> None:
        """Print the status of the seed and the test accuracy after the last epoch."""
        self._ended.add(outcome.seed)
        if outcome.seed in self._done:
            self._move_seed(outcome.seed, self._total)
        record = outcome.record
        words = record.status if record else f"not finished: {outcome.problem}"
        if record and record.epochs:
            last = record.epochs[-1]
            words += f", epoch {last.epoch}: test {last.test_correct:,} of {last.test_total:,}"
        self._console.print(f"seed {outcome.seed}  {words}  ({self._count} of {self._seeds})")

    @property
    def _count(self) -> int:
        return self._before + len(self._ended)

    def _move_seed(self, seed: int, steps: int) -> None:
        self._done[seed] = steps
        self._move(sum(self._done.values()), description=f"{self._count} of {self._seeds} seeds")


class GradingProgress(_Bar):
    """Shows the grading of many submissions as a bar, and prints one line per verdict."""

    def __init__(self, submissions: int) -> None:
        super().__init__()
        self._submissions = submissions
        self._ended = 0

    def on_verdict(self, verdict: Verdict) -> None:
        """Print name, points and status of a submission, and count it in the bar."""
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn

        from harness.reporting import harmless

        self._start(TextColumn("submissions"), BarColumn(), MofNCompleteColumn(), total=self._submissions)
        self._ended += 1
        self._move(self._ended)
        self._console.print(
            f"{harmless(verdict.submission)}  {verdict.score} of {verdict.max_score}  {verdict.status}  "
            f"({self._ended} of {self._submissions})",
            soft_wrap=True,
        )
