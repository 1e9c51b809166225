"""Choosing the model among several classes by their outputs and graphs; if the choice is ambiguous, the user must name one."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from harness.errors import ModelSourceError, one_a_line
from harness.graph import CapturedModel
from harness.sources.capturing import ClassReport
from harness.structure.identity import identity_digest

_CLASSES = 10
# Common names of a model, which are listed first.
_USUAL_NAMES = ("Net", "Model")
_MAX_REASON_CHARACTERS = 500


@dataclass(frozen=True, kw_only=True)
class Candidate(ClassReport):
    """A class that may be the model, or a file that could not be imported.

    ``model`` is the captured class, None if the capture failed; ``notes`` are messages for the user about how the file
    was imported.
    """

    model: CapturedModel | None
    notes: tuple[str, ...]

    @property
    def output_shape(self) -> tuple[int | str, ...]:
        """The shape of the output in eval mode; empty if the class was not captured."""
        if self.model is None:
            return ()
        program = self.model.graph.evaluate
        return next((op.shape for op in program.operations if op.name == program.output), ())

    @property
    def classifies(self) -> bool:
        """Whether the output has shape (N, 10): one number for each class and image."""
        shape = self.output_shape
        return len(shape) == 2 and isinstance(shape[0], str) and shape[1] == _CLASSES  # noqa: PLR2004 - images and classes

    def describe(self) -> str:
        """Return the name to type for the class, with its parameter count and output shape or its error in parentheses."""
        if self.excuse:
            known = self.excuse
        elif self.failure is not None:
            reason = " ".join(self.failure.message.removeprefix(self.name).lstrip(": ").split())
            known = reason if len(reason) <= _MAX_REASON_CHARACTERS else f"{reason[:_MAX_REASON_CHARACTERS]}..."
        else:
            tensors = self.model.graph.tensors if self.model else ()
            count = sum(spec.elements for spec in tensors if spec.kind == "parameter")
            shape = ", ".join(str(dim) for dim in self.output_shape)
            known = f"{count:,} parameters, output ({shape})"
        return f"{shlex.quote(self.name)} ({known})"


def choose(candidates: Sequence[Candidate], text: str) -> tuple[Candidate, tuple[str, ...]]:
    """Choose the model for the MODEL argument ``text``; also return messages that explain the choice, if any.

    Classes that another candidate uses as a submodule or base class are building blocks and are left out. Of the
    others, those with an output of shape (N, 10) qualify; they count as one model if their graphs have the same
    identity digest. A class that failed could be the model and makes the choice ambiguous, unless the ``excuse`` of the
    class is not empty or a qualifying class refers to it in its code.

    Raises:
        ModelSourceError: the choice is ambiguous, or no candidate can be built.
        CaptureError: the only candidate cannot be captured.
    """
    owners = _owners(candidates)
    models = [candidate for candidate in candidates if candidate.key not in owners]
    fitting = sorted((candidate for candidate in models if candidate.classifies), key=_has_unusual_name)
    if len(models) == 1:
        (only,) = models
        if only.failure is not None:
            raise only.failure.error()
        why = f"taking {only.name}, the only class that is not a building block of another"
        left_out = _left_out(candidates, [only], owners)
        return only, (why, *left_out) if left_out else ()
    optional = {key for candidate in fitting for key in candidate.optional}
    open_ones = [one for one in models if one.failure and not one.excuse and one.key not in optional]
    digests = {identity_digest(candidate.model.graph) for candidate in fitting if candidate.model is not None}
    if len(digests) == 1 and not open_ones:
        same = ", ".join(candidate.name for candidate in fitting[1:])
        only_one = f"the only class that returns {_CLASSES} numbers for each image"
        why = f"which is the same network as {same}" if same else only_one
        return fitting[0], (f"taking {fitting[0].name}, {why}", *_left_out(candidates, fitting, owners))
    rest = sorted(
        (candidate for candidate in models if candidate not in fitting),
        key=lambda candidate: (candidate.failure is not None, _has_unusual_name(candidate)),
    )
    listed = one_a_line(candidate.describe() for candidate in (*fitting, *rest))
    if all(candidate.failure is not None for candidate in models):
        raise ModelSourceError(f"{text}: expected a model, got {len(models)} classes that cannot be captured:{listed}")
    reason = "no class that is clearly the model"
    if len(digests) > 1:
        reason = f"{len(digests)} different networks that return {_CLASSES} numbers for each image"
    elif fitting:
        failing = ", ".join(candidate.name.rpartition(":")[2] for candidate in open_ones)
        reason = f"a network that returns {_CLASSES} numbers for each image, but {failing} failed"
    raise ModelSourceError(f"{text} contains {reason}. Name one of these:{listed}")


def _owners(candidates: Sequence[Candidate]) -> dict[str, Candidate]:
    """Map the key of each building block to a candidate that uses it as a submodule or base class.

    Two classes of which each uses the other are no building blocks of one another.
    """
    parts = {candidate.key: set(candidate.parts) for candidate in candidates}
    for _ in candidates:
        for used in parts.values():
            used |= {part for key in used for part in parts.get(key, ())}
    return {
        block.key: owner
        for block in candidates
        for owner in candidates
        if block.key in parts[owner.key] and owner.key not in parts[block.key]
    }


def _left_out(candidates: Sequence[Candidate], taken: Sequence[Candidate], owners: dict[str, Candidate]) -> list[str]:
    sentences = []
    for candidate in candidates:
        if candidate.key in owners:
            sentences.append(f"left out: {candidate.name}, a building block of {owners[candidate.key].name}")
        elif candidate not in taken:
            optional = any(candidate.key in one.optional for one in taken)
            why = f", an optional building block of {taken[0].name}" if optional else ""
            sentences.append(f"left out: {candidate.describe()}{why}")
    return sentences


def _has_unusual_name(candidate: Candidate) -> bool:
    return candidate.name.rpartition(":")[2] not in _USUAL_NAMES
