"""The determinism check: trains a model repeatedly with one condition changed, in worker processes.

Each process imports the user's module and trains it, not its captured graph, since a graph may hold random draws as
constants.
"""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file

from harness.data import Dataset
from harness.determinism.attribution import GLOBALS, SOURCES, attribute
from harness.determinism.axes import Axis, compared, not_applicable
from harness.determinism.requests import (
    ALL_PINNED,
    DATA_FILE,
    GRAPH_STEM,
    REFERENCE_TRACE,
    AxesRequest,
    PinnedRequest,
    ReferenceRequest,
    TrainingRequest,
    TrainingResult,
    TrainingSetup,
    trace_file,
)
from harness.determinism.variations import attribution_steps
from harness.errors import InputError
from harness.files import temporary_folder
from harness.findings import Finding, Status
from harness.graph import CapturedModel, write_captured
from harness.reproducibility.comparison import Difference, describe_difference, first_difference
from harness.reproducibility.trace import Trace, read_trace
from harness.sandbox import Ending, Job, LayerState, Limits, Outcome, run_processes
from harness.sandbox.protocol import unreadable
from harness.sources import module_source
from harness.training import RunSpec

IDLE_SECONDS = 120.0
_STEPS_PER_EPOCH = 10
_TEST_IMAGES = 100


@dataclass(frozen=True, kw_only=True)
class DeterminismReport:
    """The findings of a determinism check in the order of `Axis`.

    ``steps``, ``epochs`` and ``images`` give the size of each training; ``seconds`` is the wall time of the whole
    check. ``layers`` are the layers of the sandbox that confined the trainings.
    """

    findings: tuple[Finding, ...]
    steps: int
    epochs: int
    images: int
    seconds: float
    layers: tuple[LayerState, ...]


def check_determinism(
    spec: RunSpec,
    dataset: Dataset,
    *,
    steps: int,
    captured: CapturedModel | None = None,
    why_not_captured: str = "the model was not captured",
    hooks_file: Path | None = None,
    idle_seconds: float = IDLE_SECONDS,
    announce: Callable[[str], None] = lambda _: None,
) -> DeterminismReport:
    """Train a model repeatedly, with one condition changed each time, and compare every step.

    ``spec`` has the model's source and constructor arguments. Each training has about ``steps`` steps, on as many
    images as these need, see `shortened`. ``captured`` is the model's graph; if there is none, ``why_not_captured`` is
    the reason. ``hooks_file`` defines a loader or an evaluation, see `harness.determinism.user_files`. It is an error
    if a process makes no step for ``idle_seconds``. ``announce`` is called with progress messages.

    Raises:
        InputError: the model or the hooks cannot be imported or trained with, make no step for ``idle_seconds``, or
            end the process.
        ExaminerError: a worker process failed for a reason other than the model's code.
    """
    started = time.monotonic()
    spec, dataset = shortened(spec, dataset, steps=steps)
    with temporary_folder("determinism") as folder:
        tensors = ("train_images", "train_labels", "test_images", "test_labels")
        save_file({fact: getattr(dataset, fact).contiguous() for fact in tensors}, folder / DATA_FILE)
        if captured is not None:
            write_captured(captured, folder / GRAPH_STEM)
        setup = TrainingSetup(
            spec=spec,
            source=module_source(spec.source, captured, arguments=spec.arguments),
            hooks_file=str(hooks_file.resolve()) if hooks_file else None,
            data={fact: getattr(dataset, fact) for fact in ("name", "title", "digest", "mean", "std", "source")},
            inputs=str(folder),
        )
        check = _Check(folder=folder, setup=setup, limits=Limits(idle_seconds=idle_seconds), announce=announce)
        findings, layers = check.examine(None if captured else why_not_captured)
    order = list(Axis)
    return DeterminismReport(
        findings=tuple(sorted(findings, key=lambda finding: order.index(Axis(finding.requirement)))),
        steps=spec.recipe.epochs * math.ceil(len(dataset.train_images) / spec.recipe.batch_size),
        epochs=spec.recipe.epochs,
        images=len(dataset.train_images),
        seconds=round(time.monotonic() - started, 1),
        layers=layers,
    )


def shortened(spec: RunSpec, dataset: Dataset, *, steps: int) -> tuple[RunSpec, Dataset]:
    """Reduce a run and its data to about ``steps`` steps, rounded up to whole epochs of ten steps.

    Epochs have fewer steps if there are too few images, or if there would be only one epoch, since the run has to be
    stopped after an epoch and resumed.

    Raises:
        InputError: ``steps`` is less than two.
    """
    if steps < 2:  # noqa: PLR2004 - one before the stop, one after
        raise InputError(
            f"expected at least 2 steps, since the training is stopped between two steps and resumed, got {steps=}."
        )
    available = max(len(dataset.train_images) // spec.recipe.batch_size, 1)
    length = min(_STEPS_PER_EPOCH, steps // 2, available)
    recipe = spec.recipe.with_epochs(math.ceil(steps / length))
    images = length * spec.recipe.batch_size
    return dataclasses.replace(spec, recipe=recipe), dataset.shortened(train=images, test=_TEST_IMAGES)


@dataclass(frozen=True, kw_only=True)
class _Check:
    """A determinism check: worker processes that train the same model on the same data, with their workspaces in ``folder``."""

    folder: Path
    setup: TrainingSetup
    limits: Limits
    announce: Callable[[str], None]

    def examine(self, why_not_captured: str | None) -> tuple[list[Finding], tuple[LayerState, ...]]:
        """Return the findings, and the layers that confined the first process."""
        reference = ReferenceRequest(setup=self.setup)
        first, fresh, hashed = self._run(
            self._job(AxesRequest(setup=self.setup, why_not_captured=why_not_captured)),
            self._job(reference, title=Axis.FRESH),
            self._job(reference, title=Axis.HASH, hash_seed="2"),
        )
        return self._findings(first, fresh, hashed), first.layers

    def _findings(self, first: Outcome, fresh: Outcome, hashed: Outcome) -> list[Finding]:
        findings = list(self._result(first).findings)
        repeated = next(finding for finding in findings if finding.requirement == Axis.REPEAT)
        if repeated.status is not Status.PASS:
            why = "the training does not repeat itself in one process"
            return [*findings, not_applicable(Axis.FRESH, why), not_applicable(Axis.HASH, why)]
        trace = _trace(first, REFERENCE_TRACE)
        difference = first_difference(trace, _trace(fresh, REFERENCE_TRACE))
        if difference is not None:
            why = "the training already differs in a fresh process with the same PYTHONHASHSEED"
            return [*findings, self._attributed(difference, len(trace)), not_applicable(Axis.HASH, why)]
        by_hash = compared(
            Axis.HASH,
            first_difference(trace, _trace(hashed, REFERENCE_TRACE)),
            evidence=(
                "cause: the code depends on how Python hashes text, such as the order of a set of strings or a value of hash()",
                "a fresh process with the same PYTHONHASHSEED: bit-equal; nothing else was changed",
            ),
            hint="Iterate over sorted(...) or a list instead of a set, and use hashlib instead of hash().",
        )
        return [*findings, compared(Axis.FRESH, None), by_hash]

    def _attributed(self, difference: Difference, steps: int) -> Finding:
        """Find the cause of a difference between two processes, and build the finding.

        Two more processes pin the sources of nondeterminism before they import the model.
        """
        request = PinnedRequest(setup=self.setup, upto=attribution_steps(difference, steps))
        one, other = self._run(*(self._job(request, title="looking for the cause") for _ in range(2)))

        def between(released: frozenset[str]) -> str | None:
            (name,) = released or {ALL_PINNED}
            return describe_difference(_trace(one, trace_file(name)), _trace(other, trace_file(name)))

        found = attribute([source for source in SOURCES if source is not GLOBALS], between)
        evidence = (*found.evidence, *found.locations(self._result(one).callers))
        return compared(Axis.FRESH, difference, evidence=evidence, hint=found.hint)

    def _job(self, request: TrainingRequest, *, title: str = "", hash_seed: str = "1") -> Job:
        # Threads without work should sleep: on a busy machine, threads that spin make a training ten times slower.
        waiting = os.environ.get("OMP_WAIT_POLICY", "passive")
        variables = {"PYTHONHASHSEED": hash_seed, "OMP_WAIT_POLICY": waiting}
        return Job(request=request, working_folder=self.setup.source.working_folder, variables=variables, title=title)

    def _run(self, *jobs: Job) -> list[Outcome]:
        return run_processes(jobs, self.folder, limits=self.limits, announce=self.announce, check=self._result)

    def _result(self, outcome: Outcome) -> TrainingResult:
        """Return the result of a process.

        If there is none, raise an `InputError` if the model's code is the cause, else an `ExaminerError`.
        """
        text = self.setup.source.text
        after = f", after reporting {outcome.progress[-1]!r}" if outcome.progress else ""
        if outcome.ending is Ending.IDLE:
            raise InputError(
                f"{text} made no step in {self.limits.idle_seconds:.0f} seconds{after}: expected a training that advances. "
                "Does the model's code wait for something, or is the machine busy?"
            )
        if outcome.ending is Ending.PRINTED_TOO_MUCH:
            raise InputError(
                f"{text} printed more than {self.limits.output_bytes:,} bytes{after}: expected a model that trains. Remove "
                "the code that prints."
            )
        result: TrainingResult | None = outcome.result(outcome.job.request)
        if result is None:
            code = outcome.exit_code
            killed = f"Signal {-code} killed the process; is there enough memory? " if code and code < 0 else ""
            printed = f"The last output was: {outcome.output}" if outcome.output else "Nothing was printed."
            problem = f"{text} ended the process that trained the model{after}: expected a model that trains."
            raise InputError(f"{problem} {killed}{printed}")
        return result


def _trace(outcome: Outcome, file: str) -> Trace:
    try:
        return read_trace(outcome.folder / file)
    except (ValueError, KeyError, TypeError, OSError, SafetensorError) as problem:
        raise unreadable(problem) from problem
