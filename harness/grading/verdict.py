"""The verdict on a submission: points for each requirement of the assignment, and all that a report shows about it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

from harness.errors import InputError
from harness.findings import Finding, Status, overall
from harness.sandbox import LayerState
from harness.tables import expect_mapping, read_table, shown
from harness.training import Environment, RunRecord

SCHEMA = "harness.verdict/1"
_OPEN = {
    Status.FAIL: "Not met",
    Status.UNKNOWN: "Undecided",
    Status.SKIP: "Not checked",
    Status.ERROR: "Not graded, because of an error of the examiner",
}


class Visibility(StrEnum):
    """When a student sees a requirement's result, by Gradescope's names; only Gradescope's report depends on it."""

    VISIBLE = "visible"
    AFTER_DUE_DATE = "after_due_date"
    AFTER_PUBLISHED = "after_published"
    HIDDEN = "hidden"


@dataclass(frozen=True, kw_only=True)
class GradedRequirement:
    """A requirement of the assignment: its finding, the points given for it and the most that it can give.

    A requirement that was not checked has no points; its finding says why.
    """

    finding: Finding
    points: int
    max_points: int
    visibility: Visibility = Visibility.VISIBLE

    def __post_init__(self) -> None:
        if not 0 <= self.points <= self.max_points:
            raise InputError(
                f"expected 0 <= points <= max_points, got points={self.points}, max_points={self.max_points}."
            )

    @property
    def is_met(self) -> bool:
        """Whether the requirement holds, or could not be decided and the assignment counts that in favour of the student."""
        undecided = self.finding.status in (Status.UNKNOWN, Status.SKIP)
        return self.finding.status is Status.PASS or (undecided and self.points == self.max_points)


@dataclass(frozen=True, kw_only=True)
class Penalty:
    """Points that are taken off for a reason; ``points`` is positive, ``visibility`` that of the requirement, if it is one."""

    reason: str
    points: int
    visibility: Visibility = Visibility.VISIBLE


@dataclass(frozen=True, kw_only=True)
class LayerRow:
    """A row of the layer table: ``receptive_field`` is None where the layer has none, such as behind a global pooling."""

    name: str
    operation: str
    output_shape: tuple[int, ...]
    parameters: int
    receptive_field: int | None


@dataclass(frozen=True, kw_only=True)
class ExaminedModel:
    """The model that was graded, by the graph that was captured from it."""

    name: str
    graph_digest: str
    parameters: int
    layers: tuple[LayerRow, ...]


@dataclass(frozen=True, kw_only=True)
class GradedRun:
    """One training: the correct predictions after each epoch, of the training images and of the test images."""

    seed: int
    train_correct: tuple[int, ...]
    test_correct: tuple[int, ...]

    @staticmethod
    def of(record: RunRecord) -> GradedRun:
        """Return the counts of a run record."""
        return GradedRun(
            seed=record.seed,
            train_correct=tuple(epoch.train_correct for epoch in record.epochs),
            test_correct=tuple(epoch.test_correct for epoch in record.epochs),
        )


@dataclass(frozen=True, kw_only=True)
class WrongImage:
    """A test image that the model of the first run predicts wrongly after its last epoch.

    ``pixels`` are the grey values, row by row, in base64; the image has ``width`` columns.
    """

    index: int
    label: int
    predicted: int
    width: int
    pixels: str


@dataclass(frozen=True, kw_only=True)
class GradedTraining:
    """The trainings of a submission.

    ``required`` is the number of correct test images, of ``test_total``, that the accuracy rule asks for in the epochs it
    counts: the last ``counted_epochs``, or the best if that is None. ``confusion[label][predicted]`` counts the test images
    after the last epoch of the first run.
    """

    recipe: str
    data_title: str
    train_total: int
    test_total: int
    required: int
    counted_epochs: int | None
    runs: tuple[GradedRun, ...]
    confusion: tuple[tuple[int, ...], ...]
    wrong: tuple[WrongImage, ...]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The verdict on a submission; all reports are written from it.

    Args:
        submission: the submission, as the instructor named it.
        assignment: name of the assignment; ``assignment_digest`` is the SHA-256 of all that the grade depends on.
        requirements: every requirement of the assignment, in its order.
        penalties: what is taken off the sum of the points.
        model: the model; None if no model was captured.
        training: the trainings; None if the model was not trained.
        sandbox: the layers that confined the submission; empty if none of its code ran.
        environment: the software and hardware of the examiner.
        claims: findings of `harness audit` on the submission's documents; empty if the assignment does not ask for it.
        notes: sentences for the student that belong to no requirement.
        submission_digest: SHA-256 of the files of the submission; empty if it could not be read.
        timed_out: whether a time limit was exceeded, so that a faster or less busy machine may reach another verdict.
    """

    submission: str
    assignment: str
    assignment_digest: str
    requirements: tuple[GradedRequirement, ...]
    penalties: tuple[Penalty, ...] = ()
    model: ExaminedModel | None = None
    training: GradedTraining | None = None
    sandbox: tuple[LayerState, ...] = ()
    environment: Environment
    claims: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()
    submission_digest: str = ""
    timed_out: bool = False

    @property
    def status(self) -> Status:
        """The overall status of the requirements."""
        return overall(one.finding for one in self.requirements)

    @property
    def is_final(self) -> bool:
        """Whether grading again is sure to give the same verdict: no error of the examiner, and no time limit, played a part."""
        return self.status is not Status.ERROR and not self.timed_out

    @property
    def max_score(self) -> int:
        """The most points that the assignment gives."""
        return sum(one.max_points for one in self.requirements)

    @property
    def score(self) -> int:
        """The points of the requirements less the penalties, at least 0."""
        return max(sum(one.points for one in self.requirements) - sum(one.points for one in self.penalties), 0)

    @property
    def summary(self) -> str:
        """The points, the requirements that are not met or not decided, and the penalties, in one line.

        Requirements that a student does not see at once are not named, nor are their penalties.
        """
        words = [f"{self.score} of {self.max_score} points."]
        unmet = [one for one in self.requirements if not one.is_met]
        for status, title in _OPEN.items():
            found = (one for one in unmet if one.finding.status is status and one.visibility is Visibility.VISIBLE)
            if names := ", ".join(one.finding.requirement for one in found):
                words.append(f"{title}: {names}.")
        if not unmet:
            words.append("All requirements are met.")
        shown = (one for one in self.penalties if one.visibility is Visibility.VISIBLE)
        return " ".join([*words, *(f"Penalty of {one.points}: {one.reason}." for one in shown)])

    def digest(self) -> str:
        """Return the SHA-256 of what decides the grade: the assignment, the graph, and the points with their findings.

        The sandbox, the environment and the submission's name do not enter.
        """
        graded = [
            [dataclasses.asdict(one) for one in self.requirements],
            [dataclasses.asdict(one) for one in self.penalties],
        ]
        graph = self.model.graph_digest if self.model else None
        return hashlib.sha256(json.dumps([self.assignment_digest, graph, graded]).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Return the verdict as plain JSON data, with the sums and the digest, which `from_json` checks."""
        return {"schema": SCHEMA, **dataclasses.asdict(self), **_derived(self)}

    @classmethod
    def from_json(cls, document: object, *, where: str = "verdict") -> Self:
        """Build a verdict from parsed JSON in the form of `to_json`; ``where``, such as a file's path, begins error messages.

        Raises:
            InputError: the document is no verdict, has another schema, or contradicts itself.
        """
        table = dict(expect_mapping(document, where=where, error=InputError))
        schema = table.pop("schema", None)
        if schema != SCHEMA:
            raise InputError(f"{where}: expected a verdict with schema={SCHEMA!r}, got schema={shown(schema)}.")
        derived = {key: table.pop(key, None) for key in ("status", "score", "max_score", "digest")}
        verdict = read_table(cls, table, where=where, error=InputError)
        for key, value in _derived(verdict).items():
            if derived[key] != value:
                raise InputError(
                    f"{where}: expected {key}={value!r}, as its requirements say, got {key}={shown(derived[key])}. "
                    "The file was edited: grade the submission again."
                )
        return verdict


def _derived(verdict: Verdict) -> dict[str, Any]:
    return {
        "status": verdict.status.value,
        "score": verdict.score,
        "max_score": verdict.max_score,
        "digest": verdict.digest(),
    }
