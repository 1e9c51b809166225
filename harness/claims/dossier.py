"""All that was read from the documents of one submission, and which evidence belongs to which claim."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import Generic, Literal, TypeVar

from harness.claims.evidence import Claim, ClaimKind, CodeModel, LayerTable, Quote, Reading, Run, Section
from harness.findings import Finding, Status

Confidence = Literal["same section", "same document", "same name", "same folder"]
Kind = Literal["contradiction", "overstatement", "understatement", "drift", "suspicious", "note"]
_FILE_NUMBER = re.compile(r"(\d{1,2})\D{0,3}$")
T = TypeVar("T", Run, LayerTable, CodeModel)


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a rule finds.

    Args:
        said: the line of the document that is in question.
        claim: what that line says, in words.
        shown: what the evidence says, in words, and by how much it differs.
        evidence: the lines that show it.
        confidence: how the evidence was paired with the claim.
    """

    said: Quote
    claim: str
    shown: str
    evidence: tuple[Quote, ...]
    confidence: Confidence


@dataclass(frozen=True, kw_only=True)
class AuditFinding(Found):
    """A disagreement between a document and the evidence, or a remark, with the rule's name, kind and what to do.

    The kinds ``contradiction`` and ``overstatement`` fail.
    """

    rule: str
    kind: Kind
    fix: str

    @property
    def failed(self) -> bool:
        """Whether the finding fails the audit."""
        return self.kind in {"contradiction", "overstatement"}

    def to_finding(self) -> Finding:
        """Return the finding in the form of all examinations, first the line in question; what does not fail is a ``pass``."""
        quotes = dict.fromkeys(map(str, (self.said, *self.evidence)))
        return Finding(
            requirement=f"claims.{self.rule}",
            status=Status.FAIL if self.failed else Status.PASS,
            expected=self.claim,
            observed=f"{self.kind}: {self.shown}",
            evidence=(*quotes, f"paired by the {self.confidence}"),
            hint=self.fix,
        )


@dataclass(frozen=True, kw_only=True)
class Paired(Generic[T]):
    """The evidence that belongs to a claim, and how it was paired; ``sure`` if a contradiction may be concluded from it."""

    items: tuple[T, ...] = ()
    confidence: Confidence = "same folder"
    sure: bool = False


@dataclass(frozen=True)
class Dossier:
    """The documents of one submission, and the models of its code."""

    readings: tuple[Reading, ...]
    models: tuple[CodeModel, ...] = ()

    @cached_property
    def claims(self) -> tuple[Claim, ...]:
        """All claims."""
        return tuple(claim for reading in self.readings for claim in reading.claims)

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        """All runs."""
        return tuple(run for reading in self.readings for run in reading.runs)

    @cached_property
    def tables(self) -> tuple[LayerTable, ...]:
        """All layer tables that show a total."""
        return tuple(table for reading in self.readings for table in reading.tables if table.total is not None)

    @cached_property
    def reading(self) -> dict[str, Reading]:
        """The reading of each file."""
        return {reading.file: reading for reading in self.readings}

    def variants_of(self, claim: Claim) -> list[Claim]:
        """The same figure of other variants of a section's model, if the claim is of one; a log or summary shows one only."""
        claims = self.reading[claim.section.file].claims if claim.variant else ()
        mine = (claim.kind, claim.part, claim.section)
        return [one for one in claims if (one.kind, one.part, one.section) == mine and one.variant != claim.variant]

    def runs_for(self, claim: Claim) -> Paired[Run]:
        """The runs that a claim may speak of."""
        return self._paired_runs(claim.section, claim.mentions)

    def judged(self, kind: ClaimKind) -> Iterator[tuple[Claim, Paired[Run]]]:
        """The claims of a kind that state a result, with runs that are surely theirs and were read whole."""
        for claim in self.claims:
            if claim.kind == kind and (claim.met or not claim.target):
                paired = self.runs_for(claim)
                if paired.sure and not any(run.damaged for run in paired.items):
                    yield claim, paired

    def tables_for(self, claim: Claim) -> Paired[LayerTable]:
        """The layer tables that a claim may speak of."""
        return self._paired_tables(claim.section, claim.mentions)

    def models_for(self, section: Section, mentions: tuple[str, ...] = ()) -> Paired[CodeModel]:
        """The models of the code that a section of a document may speak of."""
        return self._pair(section, mentions, self.models)

    def run_of(self, model: CodeModel) -> Run | None:
        """The only log that is surely of a model, if it was read whole and every test result has a count."""
        runs = [run for run in self.runs if (paired := self.models_for(run.section)).sure and paired.items == (model,)]
        is_whole = len(runs) == 1 and not runs[0].damaged
        return runs[0] if is_whole and all(epoch.test.correct is not None for epoch in runs[0].epochs) else None

    # Many claims of a section share their evidence.
    @cached_property
    def _paired_runs(self) -> Callable[[Section, tuple[str, ...]], Paired[Run]]:
        return functools.cache(lambda section, mentions: self._pair(section, mentions, self.runs))

    @cached_property
    def _paired_tables(self) -> Callable[[Section, tuple[str, ...]], Paired[LayerTable]]:
        return functools.cache(lambda section, mentions: self._pair(section, mentions, self.tables))

    def _pair(self, section: Section, mentions: tuple[str, ...], items: tuple[T, ...]) -> Paired[T]:
        """Pair by section and proximity.

        Evidence in the same section comes first, then evidence of the same model's number in another section or document,
        or in a file with that number, then all evidence of the document, then that of its folder, which is sure only if
        there is one piece of it and the document speaks of one model.
        """
        file, key = section.file, mentions[0] if len(mentions) == 1 else section.key
        here = tuple(item for item in items if item.section.file == file)
        if key is None and here:
            return Paired(items=here, confidence="same document", sure=True)
        own = tuple(item for item in here if item.section.key == key)
        if own:
            return Paired(items=own, confidence="same section", sure=True)
        if here:
            return Paired()
        near = tuple(item for item in items if is_below(item.section, file))
        wanted = {key} - {None}
        named = tuple(one for one in near if wanted & {one.section.key, file_number(one.section.file)})
        if named:
            return Paired(items=named, confidence="same name", sure=True)
        return Paired(items=near, sure=len(near) == 1 and not self.reading[file].sections)


def is_below(section: Section, file: str) -> bool:
    """Whether a section is in the folder of a file, or in a folder below it."""
    return PurePosixPath(section.file).is_relative_to(PurePosixPath(file).parent)


def file_number(file: str) -> str | None:
    """Return the last number in the name of a file, such as ``3`` for ``session7_model3.ipynb``."""
    match = _FILE_NUMBER.search(PurePosixPath(file).stem)
    return str(int(match[1])) if match else None
