"""Which of several classes is the model: decided by what they compute; if that does not decide, the user is asked."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.errors import ModelSourceError
from harness.graph import CapturedModel
from harness.sources.capturing import ClassReport
from harness.structure.identity import identity_digest

_CLASSES = 10
# Common names of a model; they sort a list and decide nothing.
_USUAL_NAMES = ("Net", "Model")
_MAX_LISTED = 12
_MAX_REASON_CHARACTERS = 200


@dataclass(frozen=True, kw_only=True)
class Candidate(ClassReport):
    """A class that may be the model, or a file that could not be imported.

    ``model`` is None where it was not captured; the notes are sentences for the user on how its file was read.
    """

    model: CapturedModel | None
    notes: tuple[str, ...]

    @property
    def output_shape(self) -> tuple[int | str, ...]:
        """Shape of the output in evaluation mode; empty if it was not captured."""
        if self.model is None:
            return ()
        program = self.model.graph.evaluate
        return next((op.shape for op in program.operations if op.name == program.output), ())

    @property
    def classifies(self) -> bool:
        """Whether it returns ten numbers for each image."""
        shape = self.output_shape
        return len(shape) == 2 and isinstance(shape[0], str) and shape[1] == _CLASSES  # noqa: PLR2004 - images and classes

    @property
    def uncertain(self) -> bool:
        """Whether it may be the model although it was not captured: it accepts the images, or could not be built."""
        return self.failure is not None and (self.runs or self.failure.kind == "source")

    def describe(self) -> str:
        """How it can be typed, and what is known about it."""
        if self.failure is not None:
            reason = " ".join(self.failure.message.removeprefix(self.name).lstrip(": ").split())
            known = reason if len(reason) <= _MAX_REASON_CHARACTERS else f"{reason[:_MAX_REASON_CHARACTERS]}..."
        else:
            tensors = self.model.graph.tensors if self.model else ()
            count = sum(spec.elements for spec in tensors if spec.kind == "parameter")
            shape = ", ".join(str(dim) for dim in self.output_shape)
            known = f"{count:,} parameters, output ({shape})"
        return f"{shlex.quote(self.name)} ({known})"


def choose(candidates: Sequence[Candidate], text: str) -> tuple[Candidate, str]:
    """The candidate that is meant, and a sentence that says why; the sentence is empty if there is only one.

    A class that another candidate is built from is a building block. Of the others, those count that accept the images and
    return ten numbers for each; several of them are one model if their graphs have the same identity digest. A class that
    could not be built could be the model, so it prevents a decision. The user named ``text``.

    Raises:
        ModelSourceError: more than one can be meant, or none can be built.
        CaptureError: the only one cannot be captured.
    """
    parts = {part for candidate in candidates for part in candidate.parts if part != candidate.key}
    models = [candidate for candidate in candidates if candidate.key not in parts] or list(candidates)
    blocks = [candidate for candidate in candidates if candidate not in models]
    fitting = sorted((candidate for candidate in models if candidate.classifies), key=_has_unusual_name)
    if len(models) == 1:
        (model,) = models
        if model.failure is not None:
            raise model.failure.error()
        return model, _because(
            model, "the only class that is not a building block of another", blocks
        ) if blocks else ""
    digests = {identity_digest(candidate.model.graph) for candidate in fitting if candidate.model is not None}
    if len(digests) == 1 and not any(candidate.uncertain for candidate in models):
        others = [candidate for candidate in candidates if candidate not in fitting]
        same = ", ".join(candidate.name for candidate in fitting[1:])
        only = f"the only one that returns {_CLASSES} numbers for each image"
        return fitting[0], _because(fitting[0], f"which is the same network as {same}" if same else only, others)
    rest = sorted(
        (candidate for candidate in models if candidate not in fitting),
        key=lambda candidate: (candidate.failure is not None, _has_unusual_name(candidate)),
    )
    if all(candidate.failure is not None for candidate in models):
        raise ModelSourceError(f"{text}: none of {len(models)} classes can be examined: {_listing(rest)}")
    found = f"{len(digests)} different networks that return {_CLASSES} numbers for each image"
    reason = found if len(digests) > 1 else "no class that is clearly the model"
    raise ModelSourceError(f"{text} contains {reason}. Name one of these: {_listing([*fitting, *rest])}")


def _has_unusual_name(candidate: Candidate) -> bool:
    return candidate.name.rpartition(":")[2] not in _USUAL_NAMES


def _because(chosen: Candidate, reason: str, others: Iterable[Candidate]) -> str:
    left_out = ", ".join(candidate.name for candidate in others)
    return f"taking {chosen.name}, {reason}" + (f"; left out: {left_out}" if left_out else "")


def _listing(candidates: Sequence[Candidate]) -> str:
    more = len(candidates) - _MAX_LISTED
    shown = "; ".join(candidate.describe() for candidate in candidates[:_MAX_LISTED])
    return f"{shown}; and {more} more" if more > 0 else shown
