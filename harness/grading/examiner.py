"""Grading one submission: it is built three times, examined, trained by the examiner, and given points."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch

from harness import __version__
from harness.claims import audit
from harness.contracts import examine
from harness.data import Dataset
from harness.errors import (
    BusyError,
    HarnessError,
    InputError,
    SandboxError,
    SlowModelError,
    SubmissionError,
    first_line,
)
from harness.findings import Finding, Status
from harness.grading.assignment import Assignment
from harness.grading.checks import (
    BUILD,
    CLAIMS,
    PERMUTED_LABELS,
    BatchIndependence,
    PureEvaluation,
    StateBudget,
    build_failure,
    fixed_parameters,
    initial_weights,
    judge_claims,
    same_network,
)
from harness.grading.examined import examined_model
from harness.grading.initial import kept_numbers, with_drawn_weights
from harness.grading.trainings import TooSlowError, Trainer, permuted_labels_expected, problem_of, recipe_of
from harness.grading.verdict import GradedTraining, Verdict
from harness.graph import CapturedModel, computing_threads, graph_to_json
from harness.sandbox import (
    DEFAULT_REQUIREMENT,
    NO_REQUIREMENT,
    SandboxRequirement,
    Submission,
    open_submission,
    warm_workers,
)
from harness.sources import LoadedModel, load_builds
from harness.training import Environment, Observer, environment, state_digest

_REPORT = "the error is a defect of the harness, not of the submission: please report it"
_AGAIN = "the examiner's machine is the cause, not the submission: mend it and grade again"
_MOST_CHARACTERS = 2_000
_ANY_NAME = "the model"
_UNBUILT = "not checked: there is no model"
_NOT_TRAINED = "not checked: the model was not trained"


def audited(folder: Path) -> tuple[Finding, ...]:
    """Return the findings of `harness audit` on the documents in a folder, which runs no code; none without documents."""
    try:
        return tuple(finding.to_finding() for finding in audit(folder, code=False).findings)
    except InputError:
        return ()


@dataclass(frozen=True, kw_only=True)
class Grader:
    """How submissions are graded.

    Args:
        assignment: what the submissions are graded by.
        salt: the instructor's secret text, from which the seeds are derived together with the assignment's name.
        data: the data set to train and test on; None to examine the structure only.
        device: the device to train on.
        sandbox: the layers that must confine a submission's code, together with those that the assignment asks for.
        claims: returns findings on the documents in a submission's folder; called if the assignment asks for it.
        observer: the object whose methods are called as each training proceeds.
    """

    assignment: Assignment
    salt: str = ""
    data: Dataset | None = None
    device: torch.device = dataclasses.field(default_factory=lambda: torch.device("cpu"))
    sandbox: SandboxRequirement = DEFAULT_REQUIREMENT
    claims: Callable[[Path], Sequence[Finding]] = audited
    observer: Observer | None = None

    @functools.cached_property
    def environment(self) -> Environment:
        """The software and hardware of the examiner."""
        with computing_threads(1):
            return environment(self.device)

    @property
    def required_sandbox(self) -> SandboxRequirement:
        """The layers that must hold: those of ``sandbox`` and those of the assignment; none if ``sandbox`` requires none."""
        if self.sandbox == NO_REQUIREMENT:
            return self.sandbox
        asked = SandboxRequirement.parse(self.assignment.sandbox).alternatives
        return SandboxRequirement(alternatives=tuple(one | more for one in self.sandbox.alternatives for more in asked))

    def basis(self) -> str:
        """Return the SHA-256 of all that a grade depends on besides the submission: assignment, salt, data and version."""
        salt = hashlib.sha256(self.salt.encode()).hexdigest()
        return _sha256([self.assignment.digest(), salt, self.data.digest if self.data else None, __version__])


class Store(Protocol):
    """Keeps verdicts by what they were reached from, so that equal networks get equal grades."""

    @property
    def folder(self) -> Path | None:
        """The folder of the results, which is not a part of a submission that it lies in; None for none."""

    def held(self, key: str) -> contextlib.AbstractContextManager[None]:
        """Wait until no other process holds the key, and hold it."""

    def get(self, key: str) -> Verdict | None:
        """Return the verdict that was kept under a key."""

    def put(self, key: str, verdict: Verdict) -> None:
        """Keep a verdict; raise an `InputError` if it cannot be written."""

    def checkpoints(self, key: str) -> Path | None:
        """The folder for the checkpoints of the trainings, deleted by `put`; None for none."""


def grade(
    path: Path,
    grader: Grader,
    *,
    name: str = "",
    store: Store | None = None,
    known: Callable[[str], Verdict | None] = lambda _: None,
) -> Verdict:
    """Grade a submission; every submission gets a verdict.

    What is wrong with the submission is a failure; what is wrong with the examiner is an ``error``.

    Args:
        path: the submission: a folder, a file or an archive.
        grader: how it is graded.
        name: name of the submission in reports; by default that of the path.
        store: keeps verdicts by network.
        known: returns the verdict on a submission with this digest, if there is one already.

    Raises:
        SandboxError: the sandbox does not meet the requirement; no code of the submission has run.
        InputError: the store cannot be written.
    """
    with contextlib.ExitStack() as opened:
        try:
            # The workers see the copy there.
            area = opened.enter_context(warm_workers())
            results = store.folder if store else None
            submission = opened.enter_context(open_submission(path, inside=area, without=results))
        except (OSError, InputError) as problem:
            unread = Submission(folder=path, name=name or path.name, digest="", notes=())
            is_own = isinstance(problem, SubmissionError)
            build = build_failure(str(problem)) if is_own else _error(BUILD, problem)
            return _Grading(grader, unread).without_model(build)
        with computing_threads(1):
            grading = _Grading(grader, replace(submission, name=name or submission.name))
            return known(submission.digest) or grading.verdict(store)


def examiner_failed(grader: Grader, name: str, problem: Exception) -> Verdict:
    """Return the verdict on a submission that could not be graded because of the examiner."""
    unread = Submission(folder=Path(), name=name, digest="", notes=())
    return _Grading(grader, unread).without_model(_error(BUILD, problem))


class _Grading:
    """The grading of one submission."""

    def __init__(self, grader: Grader, submission: Submission) -> None:
        self.grader, self.submission, self.assignment = grader, submission, grader.assignment

    def verdict(self, store: Store | None) -> Verdict:
        """Grade the model and, if the assignment asks for it, the documents."""
        verdict = self._verdict_on_model(store)
        if not self.assignment.claims:
            return verdict
        claims = tuple(self.grader.claims(self.submission.folder))
        findings = [one.finding for one in verdict.requirements if one.finding.requirement != CLAIMS]
        requirements, penalties = self.assignment.graded([*findings, _shortened(judge_claims(claims))])
        return replace(verdict, requirements=requirements, penalties=penalties, claims=claims)

    def _verdict_on_model(self, store: Store | None) -> Verdict:
        """Build the model and grade it, unless the store has the verdict of an equal network."""
        seeds = self.assignment.seeds(self.grader.salt)
        runs = self.assignment.runs
        # Code of a submission may show the seed that it is built with: it is one of a training only if it must be.
        built = seeds[: max(runs, 2)] if self.assignment.initial_weights == "submission" else seeds[runs:]
        try:
            builds = self._builds((built[0], *built))
            recipe = recipe_of(self.assignment, self.submission.folder) if self.assignment.rule else None
        except SandboxError:
            raise
        except BusyError as problem:
            return self.without_model(_error(BUILD, problem))
        except InputError as problem:
            unbuilt = self.without_model(build_failure(self._inside(str(problem))))
            return replace(unbuilt, timed_out=isinstance(problem, SlowModelError))
        except Exception as problem:  # noqa: BLE001 - the examiner's own failure is no failure of the submission
            return self.without_model(_error(BUILD, problem))
        recipe_text = recipe.to_mapping() if recipe else None
        key = _sha256([self.grader.basis(), recipe_text, *(_content(build.model) for build in builds)])
        # An equal network that another process grades now is waited for, not trained twice.
        with store.held(key) if store else contextlib.nullcontext():
            kept = store.get(key) if store else None
            if kept is None:
                # Nothing that is kept depends on where the submission lies.
                models = [replace(build.model, name=_ANY_NAME) for build in builds]
                kept = self._examined(models, seeds, store.checkpoints(key) if store else None)
                if store:
                    store.put(key, kept)
        return replace(
            kept,
            submission=self.submission.name,
            submission_digest=self.submission.digest,
            model=kept.model and replace(kept.model, name=_short(self._inside(builds[0].model.name))),
            sandbox=builds[0].layers,
            notes=(*self.submission.notes, *(_short(self._inside(note)) for note in builds[0].notes)),
        )

    def without_model(self, build: Finding) -> Verdict:
        """Return the verdict on a submission without a usable model; all other requirements were not checked."""
        return self._filled([build], reason=_UNBUILT)

    def _inside(self, text: str) -> str:
        """Return a text with paths inside the submission's folder, not the folder's own path."""
        return text.replace(f"{self.submission.folder}/", "").replace(str(self.submission.folder), self.submission.name)

    def _builds(self, seeds: tuple[int, ...]) -> tuple[LoadedModel, ...]:
        place = str(self.submission.folder / self.assignment.file)
        builds = load_builds(
            f"{place}:{self.assignment.class_name}" if self.assignment.class_name else place,
            seeds=seeds,
            input_shape=self.assignment.contract.input_shape,
            timeout=self.assignment.load_seconds,
            sandbox=self.grader.required_sandbox,
        )
        loaded = tuple(build for build in builds if isinstance(build, LoadedModel))
        for build in builds:
            if isinstance(build, HarnessError):
                raise build
        return loaded

    def _examined(self, builds: Sequence[CapturedModel], seeds: Sequence[int], checkpoints: Path | None) -> Verdict:
        first, again, other = builds[:3]
        build = same_network(builds)
        if build.status is not Status.PASS:
            return self.without_model(build)
        contract = self.assignment.contract
        budget = StateBudget(most=self.assignment.state_budget, held={**kept_numbers(first), **_frozen(first, other)})
        checks = (budget, BatchIndependence(), PureEvaluation())
        findings = [
            build,
            *examine(first, replace(contract, requirements=(*contract.requirements, *checks))),
            initial_weights(first, again, other),
        ]
        training, timed_out = None, False
        if self.grader.data is not None and self.assignment.rule is not None:
            trained, training, timed_out = self._trained(builds, seeds, self.grader.data, checkpoints)
            findings += trained
        verdict = self._filled(findings, reason=_NOT_TRAINED)
        return replace(verdict, model=examined_model(first), training=training, timed_out=timed_out)

    def _trained(
        self, builds: Sequence[CapturedModel], seeds: Sequence[int], data: Dataset, checkpoints: Path | None
    ) -> tuple[list[Finding], GradedTraining | None, bool]:
        """Train the model; return the findings, the trainings, and whether one took too long.

        An error of the examiner becomes the finding ``error``.
        """
        trainer = Trainer(
            assignment=self.assignment,
            data=data,
            seeds=seeds,
            device=self.grader.device,
            checkpoints=checkpoints,
            observer=self.grader.observer,
        )
        own = dict(zip(seeds, builds[1:], strict=False))

        def weights(seed: int) -> CapturedModel:
            is_own = self.assignment.initial_weights == "submission"
            return own[seed] if is_own else with_drawn_weights(builds[0], seed)

        training, timed_out = None, False
        try:
            findings, training = trainer.judge(weights, recipe_of(self.assignment, self.submission.folder))
        except TooSlowError as problem:
            findings, timed_out = trainer.undecided(problem), True
        except Exception as problem:  # noqa: BLE001 - as above
            findings = (_error("epochs", problem), _error("accuracy", problem))
        if training is None:
            return list(findings), None, timed_out
        try:
            permuted = trainer.permuted_labels(weights(seeds[0]))
        except TooSlowError as problem:
            permuted = _skipped(PERMUTED_LABELS, permuted_labels_expected(), f"not checked: {problem}")
            timed_out = True
        except Exception as problem:  # noqa: BLE001 - as above
            permuted = _error(PERMUTED_LABELS, problem)
        return [*findings, permuted], training, timed_out

    def _filled(self, findings: Sequence[Finding], *, reason: str) -> Verdict:
        """Return a verdict with these findings; all other requirements of the assignment were not checked, for ``reason``."""
        found = {finding.requirement for finding in findings}
        skipped = [finding for finding in self._unchecked(reason) if finding.requirement not in found]
        graded, penalties = self.assignment.graded([*map(_shortened, findings), *skipped])
        return Verdict(
            submission=self.submission.name,
            submission_digest=self.submission.digest,
            assignment=self.assignment.name,
            assignment_digest=self.grader.basis(),
            requirements=graded,
            penalties=penalties,
            environment=self.grader.environment,
            notes=self.submission.notes,
        )

    def _unchecked(self, reason: str) -> Iterable[Finding]:
        """A finding with the status skip for each requirement of the assignment."""
        yield from (_skipped(one.name, one.expected, reason) for one in self.assignment.contract.requirements)
        yield from self.assignment.rule.skipped(reason) if self.assignment.rule else ()
        expectations = {
            one.name: one.expected
            for one in (StateBudget(most=self.assignment.state_budget), BatchIndependence(), PureEvaluation())
        } | {PERMUTED_LABELS: permuted_labels_expected()}
        yield from (
            _skipped(name, expectations.get(name, "a model"), reason)
            for name in self.assignment.requirements
            if name not in ("epochs", "accuracy", *self.assignment.contract.requirement_names)
        )


def _frozen(first: CapturedModel, other: CapturedModel) -> Mapping[str, int]:
    """The elements of the parameters that no training changes and that are the same under every seed, by their names."""
    frozen = {spec.name: spec.elements for spec in first.graph.tensors if not spec.requires_grad}
    return {name: frozen[name] for name in fixed_parameters(first, other) if name in frozen}


def _content(captured: CapturedModel) -> list[object]:
    """All of a captured model but its name: graph, tensors, and the comparison with the module."""
    return [graph_to_json(captured.graph), state_digest(captured.state), dataclasses.asdict(captured.fidelity)]


def _sha256(data: object) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode(errors="surrogatepass")).hexdigest()


def _shortened(finding: Finding) -> Finding:
    """Cut long texts of a finding: names and messages are the submission's."""
    return replace(
        finding,
        observed=_short(finding.observed),
        evidence=tuple(map(_short, finding.evidence)),
        hint=_short(finding.hint),
    )


def _short(text: str) -> str:
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}..."


def _skipped(requirement: str, expected: str, reason: str) -> Finding:
    return Finding(requirement=requirement, status=Status.SKIP, expected=expected, observed=reason)


def _error(requirement: str, problem: Exception) -> Finding:
    return Finding(
        requirement=requirement,
        status=Status.ERROR,
        expected="a result of the examiner",
        observed=first_line(problem) if isinstance(problem, InputError) else problem_of(problem),
        hint=_AGAIN if isinstance(problem, InputError | OSError) else _REPORT,
    )
