"""Assignments: what a submission is graded by, read from TOML.

The fields of `Assignment` and of the dataclasses that it holds are the keys of an assignment file. Points and penalties are
integers, given by the name of the requirement.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from harness.certification import ConsistencyRule, Design
from harness.contracts import Contract, builtin_contracts, contract_from_table, load_contract
from harness.errors import InputError
from harness.files import read_whole
from harness.findings import Finding, Status
from harness.grading.checks import CHECKS, CLAIMS, TRAINED_CHECKS
from harness.grading.verdict import GradedRequirement, Penalty, Visibility
from harness.sandbox import SandboxRequirement
from harness.sources import shipped_recipe
from harness.tables import Range, expect_mapping, parse_document, read_table, refuse_unknown, require_ranges
from harness.training import Recipe, load_recipe

SUFFIX = ".toml"
_MAX_BYTES = 2**20
_SEEDS_BELOW = 2**32


@dataclass(frozen=True, kw_only=True)
class OwnRecipe:
    """Bounds for a recipe that the submission may bring; a submission without the file is trained with the assignment's recipe.

    Args:
        file: path of the recipe in the submission.
        max_epochs: the largest number of epochs.
        min_batch_size: the smallest number of images in a step.
        augmentation: whether the recipe may transform the training images.
    """

    file: str = "recipe.toml"
    max_epochs: Annotated[int, Range(least=1)] = 20
    min_batch_size: Annotated[int, Range(least=1)] = 16
    augmentation: bool = True

    def __post_init__(self) -> None:
        require_ranges(self, InputError)


@dataclass(frozen=True, kw_only=True)
class _Heading:
    """The keys of an assignment whose values are plain; see `Assignment`."""

    name: str
    description: str = ""
    file: str = ""
    class_name: str = ""
    own_recipe: OwnRecipe | None = None
    initial_weights: Literal["examiner", "submission"] = "examiner"
    certificate: Design | None = None
    points: Mapping[str, int]
    penalties: Mapping[str, int] = field(default_factory=dict)
    visibility: Mapping[str, Visibility] = field(default_factory=dict)
    inconclusive: Literal["fail", "pass"] = "fail"
    state_budget: Annotated[int, Range(least=0)] = 100
    load_seconds: Annotated[float, Range(above=0)] = 45.0
    train_seconds: Annotated[float, Range(above=0)] = 3600.0
    sandbox: str = "none"
    claims: bool = False
    accepts: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Document(_Heading):
    """The keys of an assignment file."""

    contract: Any
    recipe: Any = None


@dataclass(frozen=True, kw_only=True)
class Assignment(_Heading):
    """What a submission is graded by.

    Args:
        name: name of the assignment, in reports; by default the stem of the file's name.
        description: one line for lists.
        contract: a built-in contract by name, a contract file relative to the assignment, or a table with the keys of a
            contract, such as ``extends``.
        file: path of the model's file in the submission; empty to look for it as `harness check` does.
        class_name: name of the model's class; empty to choose it as `harness check` does.
        recipe: a shipped model, whose recipe is used, a recipe file relative to the assignment, or a table with the keys of
            a recipe; not needed if the contract has no accuracy rule.
        own_recipe: bounds for a recipe that the submission may bring; without this section it may bring none.
        initial_weights: ``examiner``: the weights before training are drawn anew, as PyTorch initialises each layer;
            ``submission``: those that the submission's constructor draws from the seed.
        certificate: the test of the pass rate over several seeds; without this section one seed is judged by the accuracy
            rule of the contract.
        points: points for each requirement and each check; every name must be given, 0 included.
        penalties: points that are taken off if the requirement is not met.
        visibility: when a student sees a requirement on Gradescope; by default at once.
        inconclusive: whether a requirement that could not be decided counts as not met (``fail``) or met (``pass``).
        state_budget: the most numbers that a model may hold besides trainable weights and running statistics.
        load_seconds: limit on the time to import the file and build the model once.
        train_seconds: limit on the time of each training.
        sandbox: layers that must confine the submission besides those that `harness grade` requires, in the form of its option
            ``--require-sandbox``.
        claims: whether the claims in the submission's documents are examined as `harness audit` does, without the code; then
            the requirement ``claims`` has points, too.
        accepts: stock submissions of `harness gradecheck` that are meant to get all points; a grade does not depend on it.

    Raises:
        InputError: ``points``, ``penalties`` or ``visibility`` name a requirement that the assignment does not have,
            ``points`` lacks one, or a number is out of range.
    """

    contract: Contract
    recipe: Recipe | None

    def __post_init__(self) -> None:
        require_ranges(self, InputError)
        SandboxRequirement.parse(self.sandbox)
        for section in ("points", "penalties", "visibility"):
            refuse_unknown(getattr(self, section), self.requirements, where=f"[{section}]", error=InputError)
        for section in ("points", "penalties"):
            for name, value in getattr(self, section).items():
                Range(least=0, most=10_000).require(f"{section}.{name}", value, InputError)
        if missing := [name for name in self.requirements if name not in self.points]:
            raise InputError(
                f"expected [points] to name each requirement of the assignment, got none for {', '.join(missing)}. Add the "
                "missing names; a requirement may give 0 points."
            )
        if self.recipe is None and self.contract.accuracy is not None:
            raise InputError(
                "expected a recipe, since the contract has an accuracy rule, got none. Name a shipped model or a file, or add "
                "the section [recipe]."
            )
        if not sum(self.points.values()):
            raise InputError("expected [points] with a sum above 0, got 0. Give points to a requirement.")

    @property
    def rule(self) -> ConsistencyRule | None:
        """The accuracy rule of the contract; None if the contract has none, so that nothing is trained."""
        if self.contract.accuracy is None:
            return None
        return ConsistencyRule.from_table(self.contract.accuracy, where=f"contract {self.contract.name}: [accuracy]")

    @property
    def requirements(self) -> tuple[str, ...]:
        """Names of all requirements, in the order of reports.

        First that the model can be built, then the contract's structure requirements, the checks against cheating and, if
        the contract has an accuracy rule, those on the trained model; then, if asked for, the claims of the documents.
        """
        build, *checks = CHECKS
        trained = (*TRAINED_CHECKS, "epochs", "accuracy") if self.contract.accuracy is not None else ()
        return (build, *self.contract.requirement_names, *checks, *trained, *([CLAIMS] if self.claims else []))

    @property
    def runs(self) -> int:
        """The most trainings that a submission needs."""
        return self.certificate.runs if self.certificate else 1

    def seeds(self, salt: str) -> tuple[int, ...]:
        """Derive the seeds of all trainings, and two more, from the assignment's name and the instructor's salt.

        Each seed is the first 64 bits of the SHA-256 of name, salt and a counter, modulo 2**32; the seeds are distinct.
        """
        seeds: dict[int, None] = {}
        position = 0
        while len(seeds) < self.runs + 2:
            text = json.dumps([self.name, salt, position])
            seeds[int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) % _SEEDS_BELOW] = None
            position += 1
        return tuple(seeds)

    def digest(self) -> str:
        """Return the SHA-256 of everything in the assignment that a grade depends on."""
        plain = {key.name: getattr(self, key.name) for key in dataclasses.fields(self) if key.name != "accepts"}
        plain["contract"] = [
            [[type(one).__name__, dataclasses.asdict(one)] for one in self.contract.requirements],
            self.contract.accuracy,
        ]
        plain["recipe"] = self.recipe and self.recipe.to_mapping()
        for key in ("own_recipe", "certificate"):
            plain[key] = plain[key] and [type(plain[key]).__name__, dataclasses.asdict(plain[key])]
        return hashlib.sha256(json.dumps(plain, sort_keys=True, default=str).encode()).hexdigest()

    def graded(self, findings: Iterable[Finding]) -> tuple[tuple[GradedRequirement, ...], tuple[Penalty, ...]]:
        """Return every requirement of the assignment with its points, and the penalties.

        A requirement without a finding becomes an ``error``. Points are given for a pass; for ``unknown``, as
        ``inconclusive`` says. A penalty is taken for a requirement that failed, or that counts as failed.
        """
        found = {finding.requirement: finding for finding in findings}
        graded, penalties = [], []
        for name in self.requirements:
            finding = found.get(name) or _not_decided(name)
            met = finding.status is Status.PASS or (finding.status is Status.UNKNOWN and self.inconclusive == "pass")
            failed = finding.status is Status.FAIL or (finding.status is Status.UNKNOWN and not met)
            visibility = self.visibility.get(name, Visibility.VISIBLE)
            graded.append(
                GradedRequirement(
                    finding=finding,
                    points=self.points[name] if met else 0,
                    max_points=self.points[name],
                    visibility=visibility,
                )
            )
            if failed and (points := self.penalties.get(name, 0)):
                penalties.append(Penalty(reason=f"{name} is not met", points=points, visibility=visibility))
        return tuple(graded), tuple(penalties)


def _not_decided(name: str) -> Finding:
    return Finding(
        requirement=name,
        status=Status.ERROR,
        expected="a finding for each requirement of the assignment",
        observed="none",
        hint="the error is a defect of the harness, not of the submission: please report it",
    )


def builtin_assignments() -> tuple[str, ...]:
    """Names of the assignments that come with the harness, sorted."""
    folder = resources.files("harness.grading") / "builtin"
    names = (entry.name for entry in folder.iterdir())
    return tuple(sorted(name.removesuffix(SUFFIX) for name in names if name.endswith(SUFFIX)))


def load_assignment(name: str) -> Assignment:
    """Read a built-in assignment by name, or an assignment file by path.

    Raises:
        InputError: there is no such assignment, or the file, or one that it names, is malformed.
    """
    if name in builtin_assignments():
        content = (resources.files("harness.grading") / "builtin" / f"{name}{SUFFIX}").read_bytes()
        return parse_assignment(content, name=name, place=f"built-in assignment {name}", folder=Path())
    path = Path(name)
    if not path.is_file():
        close = difflib.get_close_matches(name, builtin_assignments())
        hint = f" Did you mean {' or '.join(close)}?" if close else ""
        raise InputError(
            f"expected an assignment, got {name!r}.{hint} Use one of {', '.join(builtin_assignments())}, or the path of a TOML "
            "file."
        )
    content = read_whole(path, "an assignment file", most=_MAX_BYTES)
    return parse_assignment(content, name=path.stem, place=name, folder=path.parent)


def parse_assignment(content: bytes, *, name: str, place: str, folder: Path) -> Assignment:
    """Read an assignment from TOML.

    ``name`` is the assignment's name if the text has no key ``name``; error messages begin with ``place``; files that the
    assignment names are relative to ``folder``.

    Raises:
        InputError: the text is not valid TOML, or no valid assignment.
    """
    table = {"name": name, **parse_document(content, "TOML", where=place, error=InputError)}
    document = read_table(_Document, table, where=place, error=InputError)
    resolved = {
        "contract": _contract(document.contract, document.name, place, folder),
        "recipe": _recipe(document.recipe, document.name, place, folder),
    }
    try:
        return Assignment(**{**vars(document), **resolved})
    except InputError as problem:
        raise InputError(f"{place}: {problem}") from problem


def _contract(value: object, name: str, place: str, folder: Path) -> Contract:
    if isinstance(value, dict):
        return contract_from_table(value, name=name, place=f"{place}, [contract]")
    if not isinstance(value, str):
        raise InputError(
            f"{place}: expected contract to be a name, a file or a table, got contract={value!r} ({type(value).__name__})."
        )
    is_own = value not in builtin_contracts() and (folder / value).is_file()
    return load_contract(str(folder / value) if is_own else value)


def _recipe(value: object, name: str, place: str, folder: Path) -> Recipe | None:
    if value is None:
        return None
    if not isinstance(value, str):
        table = expect_mapping(value, where=f"{place}, [recipe]", error=InputError)
        return Recipe.from_mapping(table, name=name)
    if value.endswith(SUFFIX):
        return load_recipe(folder / value)
    return Recipe.from_mapping(shipped_recipe(value), name=value)
