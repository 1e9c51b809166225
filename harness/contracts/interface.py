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

# Above three channels of 400x400; the experiments of larger images would fill the memory.
_MAX_PIXELS = 2**19
_MAX_DIMS = 8


@dataclass(frozen=True, kw_only=True)
class FaithfulCapture(Requirement):
    """The captured graph computes what the model does; always required, as the other checks use the graph."""

    name = "capture"
    section = ""
    expected = "the captured graph computes what the model computes, bit for bit, in training and in evaluation"

    def decide(self, model: ExaminedModel) -> Finding:
        """Report the comparison of graph and model that was made during capture."""
        fidelity, graph = model.captured.fidelity, model.captured.graph
        return self.finding(
            holds=fidelity.holds,
            observed="equal" if fidelity.holds else "; ".join(fidelity.differences),
            evidence=[
                f"graph {graph.exact_digest()[:16]}, {len(graph.evaluate.operations)} operations in evaluation",
                *([f"a training step fails: {fidelity.training_failure}"] if fidelity.training_failure else []),
            ],
            hint="make forward depend on nothing but the images, the weights and torch's random numbers; the other findings "
            "hold for the captured graph only",
        )

    def confirm(self, model: ExaminedModel) -> Confirmation | None:
        """Repeated evaluation passes must be equal, unless operations are random or change the model's state."""
        if not model.captured.fidelity.holds:
            return None
        structure, program = model.structure, model.captured.graph.evaluate
        active = any(site.active_in_evaluation for site in structure.dropouts) or structure.random_operations(program)
        repeats = model.experiments.evaluation_repeats
        return Confirmation(
            agrees=repeats or bool(active or structure.changed_in_evaluation),
            observed=f"evaluation passes over the same images {'are equal to the bit' if repeats else 'differ'}",
        )


@dataclass(frozen=True, kw_only=True)
class InputShape(Requirement):
    """The shape of one input image: channels, rows, columns."""

    name = "input"
    section = ""

    input: tuple[int, ...]

    def __post_init__(self) -> None:
        expected = (
            f"input to be a list of sizes above 0 such as [1, 28, 28], of at most {_MAX_PIXELS:,} values together"
        )
        few = len(self.input) <= _MAX_DIMS and math.prod(self.input) <= _MAX_PIXELS
        require(ContractError, min(self.input, default=0) > 0 and few, expected, input=list(self.input))

    @property
    def expected(self) -> str:
        """The required shape."""
        return f"images of shape {by_x(self.input)} (channels, rows, columns)"

    def decide(self, model: ExaminedModel) -> Finding:
        """Compare with the shape that the model was captured with."""
        found = model.captured.graph.input_shape
        return self.finding(
            holds=found == self.input,
            observed=f"the model runs on images of shape {by_x(found)}",
            hint=f"build the model for {self.input[0]} channel(s) of {by_x(self.input[1:])} pixels",
        )


@dataclass(frozen=True, kw_only=True)
class Output(Requirement):
    """The number of classes, and whether the output is log-probabilities or logits."""

    name = "output"
    section = ""

    classes: Annotated[int | None, Range(least=1)] = None
    output: Literal["log-probabilities", "logits"] | None = in_section("head", None)

    @property
    def _kinds(self) -> tuple[str, ...]:
        return ("log-probabilities", "logits") if self.output is None else (self.output,)

    @property
    def expected(self) -> str:
        """The kinds of output, and the number of classes."""
        return " or ".join(self._kinds) + ("" if self.classes is None else f" for {self.classes} classes")

    def decide(self, model: ExaminedModel) -> Finding:
        """Inspect the operations that compute the output in evaluation, and its values if none is a softmax."""
        head, fidelity = model.structure.head, model.captured.fidelity
        kind = (head.kind == "logits" and model.experiments.distribution) or head.kind
        has_classes = self.classes is None or head.classes == self.classes
        hint = (
            "train on log-probabilities (log_softmax with NLL loss) or on logits (cross entropy); softmax fits neither"
        )
        if head.changes:
            hint = f"return what the softmax gives or the scores before it, without {', '.join(head.changes)}"
        if not has_classes:
            hint = f"the last layer must return {self.classes} numbers per image, one for each class"
        faults = []
        if not head.is_floating:
            faults.append("whole numbers or truth values, which no loss can train")
            hint = "return the scores themselves, not what is chosen by them"
        if not fidelity.finite:
            faults.append("NaN or infinite for random images, and for those between 0 and 1")
            hint = "return finite numbers: look for a division by zero, a logarithm or a root"
        if len(head.shape) > 1 and fidelity.single_image not in (None, (1, *head.shape[1:])):
            faults.append(f"{_in_brackets(fidelity.single_image or ())} for one image")
            hint = "keep the batch dimension of a single image: name the dimensions to squeeze, or use x.flatten(1)"
        if fidelity.single_image_failure:
            faults.append(f"an error for one image: {fidelity.single_image_failure}")
            hint = "let evaluation accept a single image: normalise over more than one value, and squeeze no batch dimension"
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
        """Look at the operations after the last layer with weights."""
        head = model.structure.head
        after = ", ".join(head.after)
        return self.finding(
            holds=not after,
            observed=f"{after or 'nothing'} after {head.last_weighted}",
            hint=f"remove {after}: it changes or clips the scores that tell the classes apart",
        )
