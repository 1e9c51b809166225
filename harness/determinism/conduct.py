"""The determinism audit: the same training again and again with one thing changed, in child processes that import the model.

It trains the module itself and not its captured graph, since a graph may freeze what the module draws.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from harness.data import Dataset
from harness.determinism.axes import Axis, called, compared, not_applicable, steps_of_an_investigation
from harness.determinism.suspects import GLOBALS, SUSPECTS, blame
from harness.determinism.worker import (
    DATA_FILE,
    GRAPH_STEM,
    HELD_STILL,
    PLAIN_TRACE,
    PROGRESS_FILE,
    REQUEST_FILE,
    RESULT_FILE,
    trace_file,
)
from harness.errors import ExaminerError, InputError
from harness.findings import Finding, Status
from harness.graph import CapturedModel
from harness.reproducibility.comparison import Difference, first_difference
from harness.reproducibility.trace import Trace, read_trace
from harness.sources.child import end_child, last_words, start_child
from harness.sources.worker import write_model
from harness.training import Recipe

STALL_SECONDS = 120.0
_STEPS_AN_EPOCH = 10
_TEST_IMAGES = 100
_SECONDS_BETWEEN_LOOKS = 0.1
_CHILDREN_AT_ONCE = 2
_OUTPUT_FILE = "output.txt"


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What an audit found.

    Args:
        findings: one for each axis, in the order of `Axis`.
        steps: steps of each training.
        epochs: epochs of each.
        images: training images.
        seconds: wall time of all together.
    """

    findings: tuple[Finding, ...]
    steps: int
    epochs: int
    images: int
    seconds: float


def cut(recipe: Recipe, dataset: Dataset, *, steps: int) -> tuple[Recipe, Dataset]:
    """A recipe and data for about so many steps, rounded up to whole epochs of ten.

    Epochs are shorter where the images do not suffice, and where there would be only one: a training is to be stopped
    after one and gone on with.

    Raises:
        InputError: fewer than two steps.
    """
    if steps < 2:  # noqa: PLR2004 - one before the stop, one after
        msg = f"expected at least 2 steps, one before a stop and one after it, got steps={steps}."
        raise InputError(msg)
    available = max(len(dataset.train_images) // recipe.batch_size, 1)
    length = min(_STEPS_AN_EPOCH, steps // 2, available)
    images = length * recipe.batch_size
    return recipe.with_epochs(math.ceil(steps / length)), dataclasses.replace(
        dataset,
        train_images=dataset.train_images[:images],
        train_labels=dataset.train_labels[:images],
        test_images=dataset.test_images[:_TEST_IMAGES],
        test_labels=dataset.test_labels[:_TEST_IMAGES],
    )


def audit(  # noqa: PLR0913 - all by name
    model: Mapping[str, Any],
    recipe: Recipe,
    dataset: Dataset,
    *,
    seed: int,
    device: str,
    steps: int,
    captured: CapturedModel | None = None,
    why_not_captured: str = "it was not captured",
    procedure: Path | None = None,
    stall: float = STALL_SECONDS,
    announce: Callable[[str], None] = lambda _: None,
) -> Audit:
    """Train a model again and again, with one thing changed each time, and compare every step.

    Args:
        model: the module itself, see `harness.sources.eager_source`.
        recipe: how to train; its epochs are replaced, see `cut`.
        dataset: what on; cut down to what the steps need.
        seed: the declared seed.
        device: where, see `harness.training.resolve_device`.
        steps: how many of each training.
        captured: the model's graph; None where it cannot be captured.
        why_not_captured: why not, then.
        procedure: a Python file with loader and evaluation, see `harness.determinism.procedure`.
        stall: seconds that may pass without a step.
        announce: is told what is being done.

    Raises:
        InputError: the model or the procedure cannot be imported or trained with, stalls, or ends its process.
        ExaminerError: a child process failed in a way that is not the model's doing.
    """
    began = time.monotonic()
    recipe, dataset = cut(recipe, dataset, steps=steps)
    with tempfile.TemporaryDirectory(prefix="harness-determinism-") as name:
        children = _Children(
            folder=Path(name),
            request={
                "model": dict(model),
                "procedure": str(procedure.resolve()) if procedure else None,
                "recipe": recipe.to_mapping(),
                "recipe_name": recipe.name,
                "data": _facts(dataset),
                "seed": seed,
                "device": device,
                "why_no_graph": None if captured else why_not_captured,
            },
            stall=stall,
            announce=announce,
        )
        _write_inputs(children.folder, dataset, captured)
        findings = _findings(children)
    order = list(Axis)
    length = math.ceil(len(dataset.train_images) / recipe.batch_size)
    return Audit(
        findings=tuple(sorted(findings, key=lambda finding: order.index(Axis(finding.requirement)))),
        steps=recipe.epochs * length,
        epochs=recipe.epochs,
        images=len(dataset.train_images),
        seconds=round(time.monotonic() - began, 1),
    )


def _findings(children: _Children) -> list[Finding]:
    first, fresh, hashed = children.run(
        _Task(name="axes"), _Task(name="plain", title=Axis.FRESH), _Task(name="plain", title=Axis.HASH, hash_seed="2")
    )
    findings = [
        Finding(**{**found, "status": Status(found["status"]), "evidence": tuple(found["evidence"])})
        for found in first.result["findings"]
    ]
    repeated = next(finding for finding in findings if finding.requirement == Axis.REPEAT)
    if repeated.status is not Status.PASS:
        why = "the training does not repeat itself in one process"
        return [*findings, not_applicable(Axis.FRESH, why), not_applicable(Axis.HASH, why)]
    plain = first.trace(PLAIN_TRACE)
    difference = first_difference(plain, fresh.trace(PLAIN_TRACE))
    if difference is not None:
        why = "the training differs in a fresh process already"
        return [*findings, _explained(children, difference, len(plain)), not_applicable(Axis.HASH, why)]
    other = first_difference(plain, hashed.trace(PLAIN_TRACE))
    return [*findings, compared(Axis.FRESH, None), _by_hash(other)]


def _by_hash(difference: Difference | None) -> Finding:
    evidence = (
        "cause: it depends on how Python hashes text, such as the order of a set of strings or a value of hash()",
        "a fresh process with the same PYTHONHASHSEED: bit-equal; nothing else was changed",
    )
    hint = "Go through sorted(...) or a list in place of a set, and use hashlib in place of hash()."
    return compared(Axis.HASH, difference, evidence=evidence, hint=hint)


def _explained(children: _Children, difference: Difference, steps: int) -> Finding:
    """Two more processes hold the suspects still, from before the import on."""
    upto = steps_of_an_investigation(difference, steps)
    one, other = children.run(*(_Task(name="suspects", title="looking for the cause", upto=upto) for _ in range(2)))

    def between(released: frozenset[str]) -> Difference | None:
        (name,) = released or {HELD_STILL}
        return first_difference(one.trace(trace_file(name)), other.trace(trace_file(name)))

    found = blame([suspect for suspect in SUSPECTS if suspect is not GLOBALS], between)
    evidence = (*found.evidence, *called(found.causes, one.result["callers"]))
    return compared(Axis.FRESH, difference, evidence=evidence, hint=found.hint)


def _facts(dataset: Dataset) -> dict[str, Any]:
    facts = ("name", "title", "digest", "mean", "std", "source")
    return {name: getattr(dataset, name) for name in facts}


def _write_inputs(folder: Path, dataset: Dataset, captured: CapturedModel | None) -> None:
    names = ("train_images", "train_labels", "test_images", "test_labels")
    save_file({name: getattr(dataset, name).contiguous() for name in names}, folder / DATA_FILE)
    if captured is not None:
        write_model(captured, folder / GRAPH_STEM)


@dataclass(frozen=True, kw_only=True)
class _Task:
    """What a child is to do: ``axes``, ``plain`` or ``suspects``.

    Args:
        name: which of these.
        title: what is put before whatever it says.
        hash_seed: its PYTHONHASHSEED.
        upto: steps of a training with suspects held still.
    """

    name: str
    title: str = ""
    hash_seed: str = "1"
    upto: int = 0


@dataclass(frozen=True, kw_only=True)
class _Answer:
    """What a child left in its folder."""

    result: dict[str, Any]
    folder: Path

    def trace(self, file: str) -> Trace:
        return read_trace(self.folder / file)


@dataclass(frozen=True, kw_only=True)
class _Children:
    """Child processes that all get the same model and data.

    Args:
        folder: where data and graph are, and the children's own folders.
        request: what all are told.
        stall: seconds that may pass without a step.
        announce: is told what a child does.
    """

    folder: Path
    request: Mapping[str, Any]
    stall: float
    announce: Callable[[str], None]

    def run(self, *tasks: _Task) -> list[_Answer]:
        """Let a new process do each task; returns what they left."""
        folders = {}
        for task in tasks:
            folder = Path(tempfile.mkdtemp(dir=self.folder))
            request = {**self.request, "task": task.name, "upto": task.upto, "inputs": str(self.folder)}
            (folder / REQUEST_FILE).write_text(json.dumps(request), encoding="utf-8")
            (folder / PROGRESS_FILE).touch()
            folders[folder] = task
        endings = self._run_side_by_side(folders)
        return [self._answer(folder, endings[folder]) for folder in folders]

    def _answer(self, folder: Path, ending: str) -> _Answer:
        text = self.request["model"]["text"]
        if not (folder / RESULT_FILE).is_file():
            msg = f"{text} ended the process that trained it{_after(folder)}: expected a model that trains. {ending}"
            raise InputError(msg)
        try:
            result = json.loads((folder / RESULT_FILE).read_text(encoding="utf-8"))
            error = result["error"]
        except (ValueError, KeyError, TypeError) as problem:
            msg = f"the process that trained {text} handed back something unreadable: {problem}"
            raise ExaminerError(msg) from problem
        if error is not None:
            failure = ExaminerError(error["message"]) if error["kind"] == "examiner" else InputError(error["message"])
            failure.add_note(error["traceback"])
            raise failure
        return _Answer(result=result, folder=folder)

    def _run_side_by_side(self, folders: Mapping[Path, _Task]) -> dict[Path, str]:
        """Run a child in each folder, some at once; returns how each ended, in a sentence."""
        waiting = list(folders)
        running: dict[Path, subprocess.Popen[bytes]] = {}
        endings: dict[Path, str] = {}
        said = dict.fromkeys(folders, 0)
        try:
            while waiting or running:
                while waiting and len(running) < _CHILDREN_AT_ONCE:
                    folder = waiting.pop(0)
                    running[folder] = self._start(folder, folders[folder])
                time.sleep(_SECONDS_BETWEEN_LOOKS)
                for folder, child in list(running.items()):
                    title = folders[folder].title
                    lines = _progress_of(folder)
                    for line in lines[said[folder] :]:
                        self.announce(f"{title}: {line}" if title else line)
                    said[folder] = len(lines)
                    if child.poll() is not None:
                        endings[folder] = _ending(running.pop(folder), folder)
                    elif time.time() - (folder / PROGRESS_FILE).stat().st_mtime > self.stall:
                        msg = (
                            f"{self.request['model']['text']} made no step in {self.stall:.0f} seconds{_after(folder)}: "
                            "expected a training that goes on. Does it wait for something, or is the machine busy?"
                        )
                        raise InputError(msg)
        finally:
            for child in running.values():
                end_child(child)
        return endings

    def _start(self, folder: Path, task: _Task) -> subprocess.Popen[bytes]:
        path = self.request["model"]["path"]
        # A thread that has nothing to do sleeps: on a busy machine, waiting awake makes a training ten times slower.
        waiting = os.environ.get("OMP_WAIT_POLICY", "passive")
        return start_child(
            "harness.determinism.worker",
            folder,
            place=Path(path).parent if path else Path.cwd(),
            output=folder / _OUTPUT_FILE,
            variables={"PYTHONHASHSEED": task.hash_seed, "OMP_WAIT_POLICY": waiting},
        )


def _ending(child: subprocess.Popen[bytes], folder: Path) -> str:
    end_child(child)
    words = last_words(folder / _OUTPUT_FILE)
    killed = f"It was ended by signal {-child.returncode}; was there memory enough? " if child.returncode < 0 else ""
    return killed + (f"Its last words: {words}" if words else "It said nothing.")


def _progress_of(folder: Path) -> list[str]:
    """What a child has said so far, a line each."""
    return (folder / PROGRESS_FILE).read_text(encoding="utf-8", errors="replace").splitlines()


def _after(folder: Path) -> str:
    said = _progress_of(folder)
    return f", after saying {said[-1]!r}" if said else ""
