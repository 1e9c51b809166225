"""Which of several classes is the model that the user means: decided by what they are, asked where that does not decide."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.errors import CaptureError, ModelSourceError
from harness.graph.capture import CapturedModel
from harness.structure.identity import identity_digest

_CLASSES = 10
# What people call their model; it orders a list and decides nothing.
_USUAL_NAMES = ("Net", "Model")
_LONGEST_LIST = 12
_LONGEST_REASON = 200


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A class that may be the model, and what came of building and capturing it.

    Args:
        name: as it can be typed: ``net.py:Net``.
        key: the file and the class, the same however the file was reached.
        parts: keys of the classes that it is made of or derives from.
        model: what was captured, or None.
        refusal: why nothing was captured, or None.
        runs: whether it was built and takes such images, captured or not.
    """

    name: str
    key: str
    parts: frozenset[str] = frozenset()
    model: CapturedModel | None = None
    refusal: ModelSourceError | CaptureError | None = None
    runs: bool = False

    @property
    def output_shape(self) -> tuple[int | str, ...]:
        """Shape of the output in evaluation mode; empty where nothing was captured."""
        if self.model is None:
            return ()
        program = self.model.graph.evaluate
        return next((op.shape for op in program.operations if op.name == program.output), ())

    @property
    def fits(self) -> bool:
        """Whether it gives ten figures for each image."""
        shape = self.output_shape
        return len(shape) == 2 and isinstance(shape[0], str) and shape[1] == _CLASSES  # noqa: PLR2004 - images and classes

    @property
    def unclear(self) -> bool:
        """Whether it may be the model although nothing was captured: it takes such images, or was never built."""
        return self.refusal is not None and (self.runs or isinstance(self.refusal, ModelSourceError))

    def describe(self) -> str:
        """How it can be typed, and what is known about it."""
        if self.refusal is not None:
            reason = " ".join(str(self.refusal).removeprefix(self.name).lstrip(": ").split())
            known = reason if len(reason) <= _LONGEST_REASON else f"{reason[:_LONGEST_REASON]}..."
        else:
            count = (
                sum(spec.elements for spec in self.model.graph.tensors if spec.kind == "parameter") if self.model else 0
            )
            shape = ", ".join(str(dim) for dim in self.output_shape)
            known = f"{count:,} parameters, output ({shape})"
        return f"{shlex.quote(self.name)} ({known})"


def choose(candidates: Sequence[Candidate], text: str) -> tuple[Candidate, str]:
    """The candidate that is meant, and a sentence on why; the sentence is empty where there was no choice.

    What another candidate is made of is a building block. Of the others, those count that take the images and give ten figures
    for each; several of them are one model where their graphs have the same identity digest. A class that could not be built
    could be anything, so it stands in the way of a decision.

    Args:
        candidates: at least one.
        text: what the user named.

    Raises:
        ModelSourceError: more than one may be meant, or none can be had.
        CaptureError: the only one there is cannot be captured.
    """
    parts = {part for candidate in candidates for part in candidate.parts - {candidate.key}}
    models = [candidate for candidate in candidates if candidate.key not in parts] or list(candidates)
    blocks = [candidate for candidate in candidates if candidate not in models]
    fitting = sorted((candidate for candidate in models if candidate.fits), key=_by_name)
    if len(models) == 1:
        (only,) = models
        if only.refusal is not None:
            raise only.refusal
        return only, _because(only, "the one class that is no building block of another", blocks) if blocks else ""
    unclear = [candidate for candidate in models if candidate.unclear]
    digests = {identity_digest(candidate.model.graph) for candidate in fitting if candidate.model is not None}
    if len(digests) == 1 and not unclear:
        others = [candidate for candidate in candidates if candidate not in fitting]
        if len(fitting) == 1:
            return fitting[0], _because(fitting[0], f"the one that gives {_CLASSES} figures for each image", others)
        same = ", ".join(candidate.name for candidate in fitting[1:])
        return fitting[0], _because(fitting[0], f"which is the same network as {same}", others)
    rest = sorted(
        (candidate for candidate in models if candidate not in fitting),
        key=lambda candidate: (candidate.refusal is not None, _by_name(candidate)),
    )
    if all(candidate.refusal is not None for candidate in models):
        msg = f"{text}: none of {len(models)} classes can be examined: {_listing(rest)}"
        raise ModelSourceError(msg)
    found = f"{len(digests)} different networks that give {_CLASSES} figures for each image"
    reason = found if len(digests) > 1 else "no class that is sure to be the model"
    msg = f"{text} holds {reason}. Which one do you mean? Name it as it stands here: {_listing([*fitting, *rest])}"
    raise ModelSourceError(msg)


def _by_name(candidate: Candidate) -> bool:
    return candidate.name.rpartition(":")[2] not in _USUAL_NAMES


def _because(chosen: Candidate, reason: str, others: Iterable[Candidate]) -> str:
    left = ", ".join(candidate.name for candidate in others)
    return f"taking {chosen.name}, {reason}" + (f"; left out: {left}" if left else "")


def _listing(candidates: Sequence[Candidate]) -> str:
    more = len(candidates) - _LONGEST_LIST
    shown = "; ".join(candidate.describe() for candidate in candidates[:_LONGEST_LIST])
    return f"{shown}; and {more} more" if more > 0 else shown
