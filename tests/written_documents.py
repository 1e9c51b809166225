"""Training logs and documents that are written from known runs, in the forms that people publish, with known faults.

The strategies are here and not in `tests.strategies`, which imports torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from hypothesis import assume
from hypothesis import strategies as st

TEST_IMAGES = 10_000
TRAIN_IMAGES = 60_000
_BAR = "█" * 24


@dataclass(frozen=True)
class WrittenEpoch:
    """An epoch as it is written: correct test images, train accuracy in hundredths of a percent, test loss in 1/10,000."""

    correct: int
    train: int
    loss: int

    @property
    def percent(self) -> str:
        """The test accuracy, which two decimals show exactly."""
        return f"{Decimal(self.correct) / 100:.2f}"

    @property
    def train_percent(self) -> str:
        """The train accuracy."""
        return f"{Decimal(self.train) / 100:.2f}"

    @property
    def loss_text(self) -> str:
        """The test loss."""
        return f"{Decimal(self.loss) / 10_000:.4f}"


@dataclass(frozen=True)
class WrittenRun:
    """A run as it is written: its epochs, the number of the first, and whether it was interrupted in a further epoch."""

    epochs: tuple[WrittenEpoch, ...]
    first: int = 1
    interrupted: bool = False
    steps: int = 469

    def labelled(self) -> Iterator[tuple[int, WrittenEpoch]]:
        """The epochs with the numbers that the log prints."""
        return enumerate(self.epochs, start=self.first)

    def bar(self, percent: str, done: int = 100) -> str:
        """A progress bar."""
        step = self.steps * done // 100
        return (
            f"Loss=0.0194143615 Batch_id={max(step - 1, 0)} Accuracy={percent}: {done}%|{_BAR}| {step}/{self.steps} "
            "[01:24<00:00, 11.13it/s]"
        )


@dataclass(frozen=True)
class Noise:
    """What is not in the way of a reader: bars glued on a line or updated in place, lines twice, damage outside figures."""

    glued: bool = False
    updated: bool = False
    twice: bool = False
    damaged: bool = False

    def bar(self, run: WrittenRun, percent: str) -> list[str]:
        """The bar of an epoch, with the noise."""
        whole = run.bar(percent)
        if self.damaged:
            whole = whole.replace("███", "█\ufffd\ufffd█", 1) + "\ufffd"
        earlier = run.bar("12.34", done=21)
        if self.updated:
            return [f"{earlier}\r{whole}\r"]
        return self.lines(earlier + whole if self.glued else whole)

    def lines(self, *lines: str) -> list[str]:
        """Lines, with the noise."""
        return [line for line in lines for _ in range(2 if self.twice else 1)]


HEADINGS: tuple[Callable[[int], str], ...] = (
    lambda n: f"EPOCH: {n}",
    lambda n: f"Epoch: {n}",
    lambda n: f"Currently Executing Epoch: {n}",
    lambda n: f"Epoch {n}/20",
    lambda n: f"Epoch: [{n}]",
    lambda n: f"📈 Epoch {n}/20",
)
RESULTS: tuple[Callable[[WrittenEpoch], str], ...] = (
    lambda e: f"Test set: Average loss: {e.loss_text}, Accuracy: {e.correct}/{TEST_IMAGES} ({e.percent}%)",
    lambda e: f"Test set: Average loss: {e.loss_text}, Accuracy: {e.correct}.0/{TEST_IMAGES} ({e.percent}%)",
    lambda e: f"Test set: Average Loss= {e.loss_text} Batch_id= 78 Accuracy= {e.correct}/{TEST_IMAGES} ({e.percent}%)",
    lambda e: f"**Test:** loss: {e.loss_text}, **Accuracy**: {e.correct}/{TEST_IMAGES} ({e.percent} %)",
    lambda e: f"Validation set: Average loss: {e.loss_text}, Accuracy: {e.percent}% ({e.correct}/{TEST_IMAGES})",
)
Read = list[tuple[int | None, str, str | None, str | None]]


def expected(run: WrittenRun, *, counts: bool = True, losses: bool = True, train: bool = True) -> Read:
    """What must be read back: for each epoch the count, the percentage, the test loss and the train accuracy."""
    return [
        (e.correct if counts else None, e.percent, e.loss_text if losses else None, e.train_percent if train else None)
        for e in run.epochs
    ]


@dataclass(frozen=True)
class WrittenLog:
    """A text and what must be read back from it, a list for each run."""

    text: str
    runs: tuple[Read, ...]


def _blocks(run: WrittenRun, draw: st.DrawFn, noise: Noise) -> tuple[list[str], Read]:
    """The most frequent form: a heading, a bar, a test line."""
    heading, result = draw(st.sampled_from(HEADINGS)), draw(st.sampled_from(RESULTS))
    lines = []
    for label, epoch in run.labelled():
        lines += noise.lines(heading(label)) + noise.bar(run, epoch.train_percent)
        lines += ["", *noise.lines(result(epoch)), ""]
    if run.interrupted:
        lines += [heading(run.first + len(run.epochs)), run.bar("50.00", done=45), "KeyboardInterrupt"]
    return lines, expected(run)


def _both_parts(run: WrittenRun, draw: st.DrawFn, noise: Noise) -> tuple[list[str], Read]:
    """The same line for the train and the test result."""
    lines, word = [], draw(st.sampled_from(("Test set", "Train set")))
    for label, e in run.labelled():
        trained = e.train * TRAIN_IMAGES // 10_000
        lines += noise.lines(
            f"Epoch: {label}",
            f"{word}: Average loss: 0.1234, Accuracy: {trained}/{TRAIN_IMAGES} ({e.train_percent}%)",
            RESULTS[0](e),
        )
    return lines, expected(run)


def _metrics(run: WrittenRun, draw: st.DrawFn, noise: Noise) -> tuple[list[str], Read]:
    """A line of metrics for each epoch."""
    part, separate = draw(st.sampled_from(("Test", "Val", "Validation"))), draw(st.booleans())
    lines = []
    for label, e in run.labelled():
        metrics = f"Train Loss: 0.0411 | Train Acc: {e.train_percent}% || {part} Loss:  {e.loss_text} | {part} Acc:  {e.percent}%"
        lines += (
            noise.lines(f"Epoch {label}/20", "-" * 20, metrics)
            if separate
            else noise.lines(f"Epoch {label}: {metrics}")
        )
    return lines, expected(run, counts=False)


def _percentages(run: WrittenRun, _: st.DrawFn, noise: Noise) -> tuple[list[str], Read]:
    """Test lines without counts."""
    lines = []
    for label, e in run.labelled():
        lines += noise.lines(f"Epoch: {label}") + noise.bar(run, e.train_percent)
        lines += noise.lines(f"Test set: Average loss: {e.loss_text}, Accuracy: {e.percent}%")
    return lines, expected(run, counts=False)


def _timestamped(run: WrittenRun, _: st.DrawFn, noise: Noise) -> tuple[list[str], Read]:
    """The lines of a logger."""
    now, lines = datetime(2025, 1, 8, 13, 0, 10), []  # noqa: DTZ001 - logs print no zone
    for label, e in run.labelled():
        for text in (f"EPOCH: {label}", f"Loss=0.2826 Batch_id=468 Accuracy={e.train_percent}", RESULTS[0](e)):
            lines += noise.lines(f"{now:%Y-%m-%d %H:%M:%S} | INFO | {text}")
            now += timedelta(seconds=3)
    return lines, expected(run)


def _keras(run: WrittenRun, _: st.DrawFn, noise: Noise) -> tuple[list[str], Read]:
    """The progress of Keras, with accuracies as fractions."""
    lines = []
    for label, e in run.labelled():
        train, test = Decimal(e.train) / 10_000, Decimal(e.correct) / 10_000
        lines += noise.lines(
            f"Epoch {label}/20",
            f"469/469 [==============================] - 5s 11ms/step - loss: 0.0213 - accuracy: {train:.4f} "
            f"- val_loss: {e.loss_text} - val_accuracy: {test:.4f}",
        )
    return lines, expected(run, counts=False)


def _markdown(run: WrittenRun, draw: st.DrawFn, _: Noise) -> tuple[list[str], Read]:
    """A Markdown table with a row for each epoch, in columns of any order."""
    columns = draw(st.permutations(("Train Accuracy (%)", "Test Loss", "Test Accuracy (%)")))
    lines = ["", f"| Epoch | {' | '.join(columns)} |", "|---|---|---|---|"]
    for label, e in run.labelled():
        cells = {"Train Accuracy (%)": e.train_percent, "Test Loss": e.loss_text, "Test Accuracy (%)": e.percent}
        lines.append(f"| {label} | {' | '.join(cells[column] for column in columns)} |")
    return [*lines, ""], expected(run, counts=False)


def _columns(run: WrittenRun, _: st.DrawFn, __: Noise) -> tuple[list[str], Read]:
    """A table whose columns are separated by spaces."""
    lines = ["", "Epoch    Train Acc    Test Loss    Test Acc"]
    lines += [f"{n:<8} {e.train_percent:<12} {e.loss_text:<12} {e.percent}" for n, e in run.labelled()]
    return [*lines, ""], expected(run, counts=False)


FORMS = (_blocks, _both_parts, _metrics, _percentages, _timestamped, _keras, _markdown, _columns)


def epochs(least: int = 1, most: int = 12) -> st.SearchStrategy[tuple[WrittenEpoch, ...]]:
    """The epochs of a run; no two have the same figures."""
    epoch = st.builds(
        WrittenEpoch, correct=st.integers(9_000, 9_980), train=st.integers(8_000, 9_990), loss=st.integers(100, 9_000)
    )
    return st.lists(epoch, min_size=least, max_size=most, unique_by=(lambda e: e.correct, lambda e: e.train)).map(tuple)


@st.composite
def logs(draw: st.DrawFn) -> WrittenLog:
    """A log of one to three runs in one of the forms."""
    form = draw(st.sampled_from(FORMS))
    noise = draw(st.builds(Noise, st.booleans(), st.booleans(), st.booleans(), st.booleans()))
    first = draw(st.sampled_from((0, 1)))
    lines: list[str] = []
    runs: list[Read] = []
    for _ in range(draw(st.integers(1, 3))):
        run = WrittenRun(draw(epochs()), first=first, interrupted=draw(st.booleans()))
        written, read = form(run, draw, noise)
        # A run that repeats the epoch before it cannot be told from a log that is shown twice.
        assume(not any(epoch in earlier for epoch in read for earlier in runs))
        lines += [*written, ""]
        runs.append(read)
    return WrittenLog("\n".join(lines) + "\n", tuple(runs))


@dataclass(frozen=True)
class WrittenModel:
    """A model of a document: channels of its 3x3 convolutions, a pooling behind the ``pool``-th, and its run."""

    channels: tuple[int, ...]
    pool: int
    run: WrittenRun

    @property
    def rows(self) -> list[tuple[str, int, int, int, int, int]]:
        """For each layer the name, kernel, channels, size of the map, parameters and receptive field."""
        rows, inputs, size, field, jump = [], 1, 28, 1, 1
        for number, outputs in enumerate(self.channels, start=1):
            size, field = size - 2, field + 2 * jump
            rows.append(("Conv2d", 3, outputs, size, 9 * inputs * outputs, field))
            inputs = outputs
            if number == self.pool:
                size, field, jump = size // 2, field + jump, 2 * jump
                rows.append(("MaxPool2d", 2, outputs, size, 0, field))
        return rows

    @property
    def total(self) -> int:
        """The number of parameters."""
        return sum(row[4] for row in self.rows)


@dataclass(frozen=True)
class Document:
    """A document: its text, and the rule and the number of the line of the planted fault, if any."""

    text: str
    fault: str | None
    line: int | None


@dataclass
class _Writer:
    """Writes a document; a fault changes one figure of the last model."""

    fault: str | None
    lines: list[str]
    marked: int | None = None

    def write(self, text: str, *, marked: bool = False) -> None:
        """Write a line; the marked one is where the fault must be reported."""
        self.lines.append(text)
        if marked:
            self.marked = len(self.lines)


FAULTS = (
    "count-and-percentage",
    "best-above-log",
    "best-below-log",
    "best-epoch",
    "target-not-met",
    "not-consistent",
    "figure-of-no-run",
    "log-missing",
    "epochs-run",
    "steps-and-batch-size",
    "joined-log",
    "same-log",
    "summary-total",
    "parameters-claimed",
    "over-budget",
    "receptive-field-table",
)


def _write_model(out: _Writer, number: int, model: WrittenModel, *, last: bool, copied: WrittenRun | None) -> None:
    fault = out.fault if last else None
    run = copied if fault == "same-log" and copied else model.run
    tests = [e.correct for e in run.epochs]
    best, best_train = max(tests), max(e.train for e in run.epochs)
    shift = {"best-above-log": 7, "best-below-log": -7}.get(fault or "", 0)
    epoch = tests.index(best) + 1
    if fault == "best-epoch":
        epoch += 3
    out.write(f"# Model {number}")
    out.write("### Target")
    out.write("- Reach 99.97% test accuracy with less than 100 parameters in 15 epochs")
    out.write("### Results")
    shown = 2 * model.total if fault == "parameters-claimed" else model.total
    out.write(f"- Parameters: {shown:,}", marked=fault == "parameters-claimed")
    out.write(f"- Best Train Accuracy: {Decimal(best_train) / 100:.2f}", marked=fault == "log-missing")
    out.write(
        f"- Best Test Accuracy: {Decimal(best + shift) / 100:.2f}% ({epoch}th Epoch)",
        marked=fault in ("best-above-log", "best-below-log", "best-epoch"),
    )
    told = len(tests) + (1 if fault == "epochs-run" else 0)
    out.write(f"- Epochs: {told}", marked=fault == "epochs-run")
    batch = 32 if fault == "steps-and-batch-size" else 128
    out.write(f"- Batch Size: {batch}", marked=fault == "steps-and-batch-size")
    out.write("### Analysis")
    # A figure of no run: that of the first model would be one that the sentence may speak of.
    elsewhere = {e.correct for e in copied.epochs} if copied else set()
    stranger = next(count for count in range(best + 3, TEST_IMAGES) if count not in elsewhere)
    prose = Decimal(stranger if fault == "figure-of-no-run" else best) / 100
    out.write(f"- It reaches {prose:.2f}% accuracy on the test set.", marked=fault == "figure-of-no-run")
    floor = Decimal(best + 5 if fault == "target-not-met" else best - 5) / 100
    out.write(f"- The test accuracy is more than {floor:.2f}%.", marked=fault == "target-not-met")
    lowest = min(tests[-3:])
    held = Decimal(lowest + 1 if fault == "not-consistent" else lowest) / 100
    out.write(f"- In each of the last 3 epochs the test accuracy is {held:.2f}%.", marked=fault == "not-consistent")
    limit = model.total + (0 if fault == "over-budget" else 1)
    out.write(f"- This is a network with less than {limit:,} parameters.", marked=fault == "over-budget")
    out.write("### Receptive field")
    out.write("| Layer | Kernel | Stride | RF |")
    out.write("|---|---|---|---|")
    for index, (name, kernel, _, _, _, field) in enumerate(model.rows):
        wrong = fault == "receptive-field-table" and index == len(model.rows) - 1
        out.write(f"| {name} | {kernel} | {2 if kernel == 2 else 1} | {field + wrong} |", marked=wrong)
    out.write("")
    out.write("### Summary")
    out.write("```")
    out.write("        Layer (type)               Output Shape         Param #")
    for index, (name, _, channels, size, parameters, _) in enumerate(model.rows, start=1):
        out.write(f"{name + '-' + str(index):>20} {f'[-1, {channels}, {size}, {size}]':>25} {parameters:>15,}")
    wrong = fault == "summary-total"
    out.write(f"Total params: {model.total + wrong:,}", marked=wrong)
    out.write("```")
    out.write("### Log")
    if fault == "log-missing":
        return
    _write_log(out, run, fault)


def _write_log(out: _Writer, run: WrittenRun, fault: str | None) -> None:
    now = datetime(2025, 1, 8, 13, 0, 10)  # noqa: DTZ001 - logs print no zone
    middle = run.first + len(run.epochs) // 2
    out.write("```")
    for label, epoch in run.labelled():
        joined = fault == "joined-log" and label == middle
        now += timedelta(minutes=10 if joined else 0)
        out.write(f"{now:%Y-%m-%d %H:%M:%S} | INFO | EPOCH: {label}", marked=joined)
        now += timedelta(seconds=7)
        out.write(f"{now:%Y-%m-%d %H:%M:%S} | INFO | {run.bar(epoch.train_percent)}")
        wrong = fault == "count-and-percentage" and label == middle
        printed = replace(epoch, correct=epoch.correct + 2).percent if wrong else epoch.percent
        out.write(
            f"{now:%Y-%m-%d %H:%M:%S} | INFO | Test set: Average loss: {epoch.loss_text}, "
            f"Accuracy: {epoch.correct}/{TEST_IMAGES} ({printed}%)",
            marked=wrong or (fault == "same-log" and label == run.first),
        )
    out.write("```")


@st.composite
def documents(draw: st.DrawFn, faults: tuple[str | None, ...]) -> Document:
    """A document about two models whose figures agree, but for one planted fault in the second."""
    chosen: Any = draw(st.sampled_from(faults))
    out = _Writer(chosen, [])
    models: list[WrittenModel] = []
    for _ in range(2):
        channels = tuple(draw(st.lists(st.integers(2, 40), min_size=3, max_size=4)))
        run = WrittenRun(draw(epochs(5, 12)), first=draw(st.sampled_from((0, 1))))
        assume(not models or not {*models[0].run.epochs} & {*run.epochs})
        models.append(WrittenModel(channels, draw(st.integers(1, 2)), run))
    for number, model in enumerate(models, start=1):
        _write_model(out, number, model, last=number == len(models), copied=models[0].run)
    return Document("\n".join(out.lines) + "\n", chosen, out.marked)
