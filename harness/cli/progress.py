"""Progress bars of downloads and trainings, on standard error; lines of text where there is no terminal."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from harness.cli.console import notices

if TYPE_CHECKING:
    from rich.progress import Progress

    from harness.training import EpochResult, RunSpec, SeedOutcome


class _Bar:
    """A progress bar that starts with the first thing to show and is removed when its block ends."""

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
        """Update the bar; the first call starts it."""
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
    """Observes a training: on a terminal a bar with step, accuracy and time left; elsewhere one line per epoch."""

    def __init__(self) -> None:
        super().__init__()
        self._console = notices()
        self._epochs = 0

    def on_start(self, *, spec: RunSpec, steps: int, done: tuple[EpochResult, ...]) -> None:
        """Announce the run and start the bar."""
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        recipe = spec.recipe
        self._epochs = recipe.epochs
        resumed = f", resuming after epoch {len(done)}" if done else ""
        self._console.print(
            f"training on {spec.device}: {recipe.epochs} epochs of {steps} steps, batch size {recipe.batch_size}{resumed}"
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
        """Print the epoch's result as one line."""
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
    """Observes the training of many seeds: on a terminal a bar over all steps; one line per finished seed."""

    def __init__(self, seeds: int) -> None:
        super().__init__()
        self._console = notices()
        self._seeds = seeds
        self._ended = 0
        self._done: dict[int, int] = {}
        self._steps = self._total = 0

    def on_seed_start(self, seed: int, *, epochs: int, steps: int, done: int) -> None:
        """Start the bar with the first seed, which tells the number of steps."""
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
        """Move the bar; the results of the epoch are in the seed's record."""
        self._move(seed, result.epoch * self._steps)

    def on_seed_warning(self, seed: int, message: str) -> None:
        """Print a warning."""
        self.warn(f"seed {seed}: {message}")

    def on_seed_end(self, outcome: SeedOutcome) -> None:
        """Print the outcome of the seed."""
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
