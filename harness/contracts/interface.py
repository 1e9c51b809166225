"""Requirements on a model's interface: faithful capture, input shape, output and head."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from harness.contracts.requirement import Confirmation, ExaminedModel, Requirement, in_section
from harness.errors import ContractError
from harness.findings import Finding
from harness.graph.form import Shape
from harness.structure.layers import by_x
from harness.tables import Range, require

# More than three channels of 400x400 pixels; experiments with larger images would need too much memory.
_MAX_PIXELS = 2**19
_MAX_DIMS = 8


@dataclass(frozen=True, kw_only=True)
class FaithfulCapture(Requirement):
    """The captured graph computes what the model computes; every contract requires this equality for the other checks."""

    name = "capture"
    section = ""
    expected = "the captured graph computes what the model computes, bit for bit, in training and in evaluation"

    def decide(self, model: ExaminedModel) -> Finding:
        """Report whether graph and model were equal in the comparison made during capture."""
        fidelity, graph = model.captured.fidelity, model.captured.graph
        return self.finding(
            holds=fidelity.holds,
            observed="equal" if fidelity.holds else "; ".join(fidelity.differences),
            evidence=[
                f"digest of the graph {graph.exact_digest()[:16]}, {len(graph.evaluate.operations)} operations in evaluation",
                *(["compared in the process that ran the model's code"] if model.captured.is_own_statement else []),
                *([f"a training step fails: {fidelity.training_failure}"] if fidelity.training_failure else []),
            ],
            hint="make forward depend on nothing but the images, the weights and torch's random numbers; the other findings "
            "hold for the captured graph only",
        )

    def confirm(self, model: ExaminedModel) -> Confirmation | None:
        """Check that evaluation passes are equal, unless operations draw random numbers or change the model's tensors."""
        if not model.captured.fidelity.holds:
            return None
        structure, program = model.structure, model.captured.graph.evaluate
        active = any(site.active_in_evaluation for site in structure.dropouts) or structure.random_operations(program)
        repeats = model.experiments.evaluation_repeats
        return Confirmation(
            agrees=repeats or bool(active or structure.changed_in_evaluation),
            observed=f"evaluation passes over the same images {'are equal' if repeats else 'differ'}",
        )


@dataclass(frozen=True, kw_only=True)
class InputShape(Requirement):
    """The shape of one input image: channels, rows, columns."""

    name = "input"
    section = ""

    input: tuple[int, ...]

    def __post_init__(self) -> None:
        expected = (
            f"input to be a list of at most {_MAX_DIMS} sizes above 0, such as [1, 28, 28], with a product of at most "
            f"{_MAX_PIXELS:,}"
        )
        few = len(self.input) <= _MAX_DIMS and math.prod(self.input) <= _MAX_PIXELS
        require(ContractError, min(self.input, default=0) > 0 and few, expected, input=list(self.input))

    @property
    def expected(self) -> str:
        """The required shape of an image, as a phrase."""
        return f"images of shape {by_x(self.input)} (channels, rows, columns)"

    def decide(self, model: ExaminedModel) -> Finding:
        """Compare the required shape with the shape of the images that the model was captured with."""
        found = model.captured.graph.input_shape
        return self.finding(
            holds=found == self.input,
            observed=f"the model runs on images of shape {by_x(found)}",
            hint=f"build the model for {self.input[0]} channel(s) of {by_x(self.input[1:])} pixels",
        )


@dataclass(frozen=True, kw_only=True)
class Output(Requirement):
    """The number of classes, and the kind of the output: log-probabilities, logits, or by default either."""

    name = "output"
    section = ""

    classes: Annotated[int | None, Range(least=1)] = None
    output: Literal["log-probabilities", "logits"] | None = in_section("head", None)

    @property
    def _kinds(self) -> tuple[str, ...]:
        return ("log-probabilities", "logits") if self.output is None else (self.output,)

    @property
    def expected(self) -> str:
        """The accepted kinds of output and the number of classes, as a phrase."""
        return " or ".join(self._kinds) + ("" if self.classes is None else f" for {self.classes} classes")

    def decide(self, model: ExaminedModel) -> Finding:
        """Inspect the operations that compute the output in evaluation and, if none is a softmax, the output's values."""
        head, fidelity = model.structure.head, model.captured.fidelity
        kind = (head.kind == "logits" and model.experiments.distribution) or head.kind
        has_classes = self.classes is None or head.classes == self.classes
        hint = (
            "return log-probabilities (log_softmax, trained with NLL loss) or logits (trained with cross entropy), not the "
            "result of a softmax"
        )
        if head.changes:
            hint = (
                f"return the result of the softmax or the logits before the softmax, without {', '.join(head.changes)}"
            )
        if not has_classes:
            hint = f"the last layer must return {self.classes} numbers per image, one for each class"
        faults = []
        if not head.is_floating:
            faults.append("integers or booleans, which have no gradient")
            hint = "return floating-point scores, not the result of an argmax or a comparison"
        if not fidelity.finite:
            faults.append("with NaN or infinity, both for normally distributed images and for images between 0 and 1")
            hint = "return finite numbers: look for a division by zero, a logarithm or a root"
        if len(head.shape) > 1 and fidelity.single_image not in (None, (1, *head.shape[1:])):
            faults.append(f"of shape {_in_brackets(fidelity.single_image or ())} for one image")
            hint = (
                "keep the batch dimension of a single image: give squeeze the dimensions to remove, or use x.flatten(1)"
            )
        if fidelity.single_image_failure:
            faults.append(f"the model fails for one image: {fidelity.single_image_failure}")
            hint = "make evaluation work for a single image: normalise over more than one value, and keep the batch dimension"
        return self.finding(
            holds=has_classes and kind in self._kinds and not faults,
            observed=", but ".join([f"{kind} of shape {_in_brackets(head.shape)}", *faults[:1]]),
            evidence=[
                f"last layer with weights: {head.last_weighted}",
                *([f"after it: {', '.join(head.after)}"] if head.after else []),
                *([f"after the softmax: {', '.join(head.changes)}"] if head.changes else []),
            ],
            hint=hint,
        )


def _in_brackets(shape: Shape) -> str:
    return f"({', '.join(str(dim) for dim in shape)})"


@dataclass(frozen=True, kw_only=True)
class BareHead(Requirement):
    """No operation except softmax after the last layer with weights."""

    name = section = "head"

    expected = "no activation, normalisation or dropout between the last layer with weights and the output"

    bare: bool = False

    def decide(self, model: ExaminedModel) -> Finding:
        """Check that no activation, normalisation or dropout follows the last layer with weights."""
        head = model.structure.head
        after = ", ".join(head.after)
        return self.finding(
            holds=not after,
            observed=f"{after or 'nothing'} after {head.last_weighted}",
            hint=f"remove {after}, so that the output is the unchanged scores of the last layer with weights",
        )
