"""The trainings of a submission: with the recipe, judged by the accuracy rule or a certificate, and on permuted labels."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from harness.certification import ConsistencyRule, Design
from harness.data import Dataset
from harness.errors import ExaminerError, InputError, RecipeError, WriteError, first_line
from harness.findings import Finding, Status, percent
from harness.grading.assignment import Assignment
from harness.grading.checks import PERMUTED_LABELS
from harness.grading.examined import wrong_images
from harness.grading.verdict import GradedRun, GradedTraining
from harness.graph import CapturedModel
from harness.graph.form import Dim
from harness.training import (
    NullObserver,
    Observer,
    Predictions,
    Recipe,
    RunRecord,
    RunSpec,
    Step,
    TrainingHooks,
    choose_engine,
    load_recipe,
    predict,
    train,
)
from harness.training.recipe import Adam

_PERMUTED_RECIPE = Recipe(name=PERMUTED_LABELS, batch_size=64, epochs=1, optimizer=Adam(lr=0.001))
_PERMUTED_IMAGES = 6_400
# Guessing gives 10 %, always the same class at most 12 %; clusters of similar digits that get one class by chance give more: up
# to 17.5 % in five trainings of each shipped model on the embedded digits.
_PERMUTED_MOST = 0.4


# As much memory as a confined process has. The largest batch of honest networks takes a tenth of it.
_MAX_STEP_BYTES = 2**32
_SIZE = re.compile(r"\d+")


class TooSlowError(Exception):
    """A training took longer than the assignment allows."""


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """What the trainings of a submission have in common.

    Args:
        assignment: the assignment, which has an accuracy rule.
        data: the data set to train and test on.
        seeds: the seeds of the trainings, in order.
        device: the device to train on.
        checkpoints: folder for checkpoints, from which an interrupted training continues; None for none.
        observer: the object whose methods are called as each training proceeds.
    """

    assignment: Assignment
    data: Dataset
    seeds: Sequence[int]
    device: torch.device
    checkpoints: Path | None = None
    observer: Observer | None = None

    def judge(
        self, weights: Callable[[int], CapturedModel], recipe: Recipe
    ) -> tuple[tuple[Finding, ...], GradedTraining | None]:
        """Train the declared seeds until a verdict is reached.

        Returns the findings ``epochs`` and ``accuracy``, and the trainings. ``weights`` returns the model with the initial
        weights of a seed. A model that cannot be trained fails.

        Raises:
            TooSlowError: a training takes too long.
            WriteError: a checkpoint cannot be written.
        """
        rule, design = _rule(self.assignment), self.assignment.certificate
        records: list[RunRecord] = []
        judged: list[_Judged] = []
        first: Predictions | None = None
        try:
            for seed in self.seeds[: self.assignment.runs]:
                record, predictions = self._train(weights(seed), recipe, seed)
                records.append(record)
                judged.append(_without_seed(rule.judge(record), record))
                first = first or predictions
                if design and design.decide([_passes(*one) for one in judged]):
                    break
        except WriteError as problem:
            # Students read this: it does not say where the folder is.
            raise WriteError(
                "expected a folder of results to write checkpoints to, got one that is full or not writable. Free some space"
            ) from problem
        except InputError as problem:
            return self._not_trained(Status.FAIL, problem), None
        if first is None:
            raise ExaminerError("expected at least one training, got none")
        findings = _certified(design, judged) if design else judged[0]
        return findings, _training(rule, records, first, self.data)

    def undecided(self, problem: TooSlowError) -> tuple[Finding, ...]:
        """Return the findings ``epochs`` and ``accuracy`` for a training that took too long."""
        return self._not_trained(Status.UNKNOWN, problem)

    def permuted_labels(self, captured: CapturedModel) -> Finding:
        """Return the finding ``permuted labels``: a short training on permuted labels must teach nothing about the test images.

        A model that still predicts test images well knows them from elsewhere.

        Raises:
            TooSlowError: the training takes too long.
        """
        generator = torch.Generator().manual_seed(self.seeds[0])
        data = self.data.shortened(train=_PERMUTED_IMAGES, test=len(self.data.test_labels))
        order = torch.randperm(len(data.train_labels), generator=generator)
        spec = self._spec(captured, _PERMUTED_RECIPE, self.seeds[0], "eager")
        permuted = replace(data, train_labels=data.train_labels[order])
        record = train(captured.to_module(), spec, permuted, hooks=self._hooks())
        correct = record.epochs[-1].test_correct if record.epochs else 0
        total = len(data.test_labels)
        known = correct > _PERMUTED_MOST * total
        return Finding(
            requirement=PERMUTED_LABELS,
            status=Status.FAIL if known else Status.PASS,
            expected=permuted_labels_expected(),
            observed=f"{correct:,} of {total:,} correct ({percent(correct, total)})",
            evidence=(f"one epoch of {len(order):,} training images, whose labels were permuted",),
            hint="remove all weights and results of earlier trainings from the network" if known else "",
        )

    def _train(self, captured: CapturedModel, recipe: Recipe, seed: int) -> tuple[RunRecord, Predictions]:
        captured.require_trainable()
        _require_small_steps(captured, recipe.batch_size)
        module = captured.to_module()
        engine, _ = choose_engine("auto", module, self.device)
        spec = self._spec(captured, recipe, seed, engine.name)
        record = train(
            module,
            spec,
            self.data,
            engine=engine,
            checkpoint_dir=self.checkpoints and self.checkpoints / f"run-{self.seeds.index(seed) + 1}",
            observer=self.observer or NullObserver(),
            hooks=self._hooks(),
        )
        return record, predict(module, self.data.to(self.device))

    def _spec(self, captured: CapturedModel, recipe: Recipe, seed: int, engine: str) -> RunSpec:
        return RunSpec.of(captured, recipe, seed=seed, device=self.device, engine=engine)

    def _hooks(self) -> TrainingHooks:
        return TrainingHooks(callbacks=(_Deadline(self.assignment.train_seconds),))

    def _not_trained(self, status: Status, problem: Exception) -> tuple[Finding, ...]:
        reason = str(problem).rstrip(".")
        return tuple(replace(finding, status=status) for finding in _rule(self.assignment).skipped(reason))


class _Deadline:
    """Ends a training that takes longer than a number of seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._until = time.monotonic() + seconds

    def before_step(self, step: Step) -> None:
        """Raise `TooSlowError` after the deadline."""
        if time.monotonic() > self._until:
            raise TooSlowError(f"{step.number - 1:,} steps of training took more than {self._seconds:,.0f} seconds")

    def after_step(self, step: Step) -> None:
        """Do nothing."""


def _require_small_steps(captured: CapturedModel, batch_size: int) -> None:
    """Check that the results of a training step fit into memory, before they are computed.

    Raises:
        InputError: they do not.
    """
    total: int = sum(
        math.prod(_elements(dim, batch_size) for dim in result.shape) * getattr(torch, result.dtype).itemsize
        for operation in captured.graph.train.operations
        if not operation.kind.shares_memory
        for result in operation.outputs
    )
    if total > _MAX_STEP_BYTES:
        raise InputError(
            f"expected a training step of at most {_MAX_STEP_BYTES:,} bytes of activations, got {total:,} with "
            f"batch_size={batch_size}. Use smaller batches, or fewer or smaller layers."
        )


def _elements(dim: Dim, batch_size: int) -> int:
    """The size of a dimension such as ``16*B``; of unusual expressions, its order of magnitude."""
    if isinstance(dim, int):
        return dim
    return math.prod([batch_size] * dim.count("B") + [int(number) for number in _SIZE.findall(dim)])


def permuted_labels_expected() -> str:
    """What the requirement ``permuted labels`` expects, as a phrase."""
    return f"after training on permuted labels, at most {100 * _PERMUTED_MOST:.0f} % of the test images correct"


def recipe_of(assignment: Assignment, folder: Path) -> Recipe:
    """Return the recipe to train with: the submission's, if it brings one within the bounds, or the assignment's.

    Raises:
        RecipeError: the submission's recipe is malformed or out of bounds.
    """
    bounds = assignment.own_recipe
    path = folder / bounds.file if bounds else None
    if bounds is None or path is None or not path.is_file() or path.is_symlink():
        if assignment.recipe is None:
            raise ExaminerError(f"expected the assignment {assignment.name} to have a recipe, got none")
        return assignment.recipe
    recipe = load_recipe(path)
    faults = [
        *([f"epochs={recipe.epochs}"] if recipe.epochs > bounds.max_epochs else []),
        *([f"batch_size={recipe.batch_size}"] if recipe.batch_size < bounds.min_batch_size else []),
        *(["a section [augmentation]"] if recipe.augmentation and not bounds.augmentation else []),
    ]
    if faults:
        allowed = "" if bounds.augmentation else " and no augmentation"
        raise RecipeError(
            f"{bounds.file}: expected at most {bounds.max_epochs} epochs, batches of at least {bounds.min_batch_size} "
            f"images{allowed}, as the assignment says, got {', '.join(faults)}."
        )
    return recipe


def _rule(assignment: Assignment) -> ConsistencyRule:
    if assignment.rule is None:
        raise ExaminerError(f"expected an assignment with an accuracy rule, got {assignment.name}, which has none")
    return assignment.rule


_Judged = tuple[Finding, Finding]


def _passes(epochs: Finding, accuracy: Finding) -> bool:
    return epochs.status is accuracy.status is Status.PASS


def _without_seed(judged: _Judged, record: RunRecord) -> _Judged:
    """The findings ``epochs`` and ``accuracy`` as a student may read them: seeds may come from the instructor's secret salt."""
    epochs, accuracy = judged
    return replace(epochs, evidence=(f"recipe {record.recipe.name}, {record.data_title}",)), accuracy


def _certified(design: Design, judged: Sequence[_Judged]) -> _Judged:
    """The findings over several seeds: ``epochs`` of the first run that fails it, ``accuracy`` by the test of the pass rate."""
    outcomes = [_passes(*one) for one in judged]
    end = design.decide(outcomes)
    if end is None:
        raise ExaminerError(f"expected a verdict of the design after {len(judged)} runs, got none")
    epochs = next((first for first, _ in judged if first.status is not Status.PASS), judged[0][0])
    verdicts = {"pass": Status.PASS, "fail": Status.FAIL}
    status = verdicts.get(end.verdict, Status.UNKNOWN)
    accuracy = Finding(
        requirement="accuracy",
        status=status,
        expected=f"{judged[0][1].expected}, with a pass rate over seeds that is shown to be above {100 * design.p0:g} %",
        observed=f"{sum(outcomes)} of {len(outcomes)} runs passed: {end.verdict}",
        evidence=tuple(
            f"run {number}: {found.status.value}, {found.observed}" for number, (_, found) in enumerate(judged, start=1)
        ),
        hint=next((found.hint for _, found in judged if found.hint), "") if status is Status.FAIL else "",
    )
    return epochs, accuracy


def _training(
    rule: ConsistencyRule, records: Sequence[RunRecord], predictions: Predictions, data: Dataset
) -> GradedTraining:
    total = len(data.test_labels)
    return GradedTraining(
        recipe=records[0].recipe.name,
        data_title=data.title,
        train_total=len(data.train_labels),
        test_total=total,
        required=rule.required(total),
        counted_epochs=rule.last,
        runs=tuple(map(GradedRun.of, records)),
        confusion=tuple(map(tuple, predictions.confusion())),
        wrong=wrong_images(predictions, data),
    )


def problem_of(error: Exception) -> str:
    """Describe an unexpected exception for a finding with the status ``error``."""
    return f"internal error: {type(error).__name__}: {first_line(error)}"
