"""Requirements on what goes in and what comes out: a faithful capture, the images, the output and the head."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from harness.contracts.requirement import Confirmation, ExaminedModel, Requirement, in_section
from harness.errors import ContractError
from harness.findings import Finding
from harness.structure.layers import by_x
from harness.tables import Range, require

# Above three channels of 400x400; the experiments of larger images would fill the memory.
_MAX_PIXELS = 2**19
_MAX_DIMS = 8


@dataclass(frozen=True, kw_only=True)
class FaithfulCapture(Requirement):
    """The captured graph computes what the model computes; always asked, as everything else is decided on the graph."""

    name = "capture"
    section = ""
    expected = "the captured graph computes what the model computes, bit for bit, in training and in evaluation"

    def decide(self, model: ExaminedModel) -> Finding:
        """Read the comparison of graph and model that was made when the model was captured."""
        fidelity, graph = model.captured.fidelity, model.captured.graph
        return self.finding(
            holds=fidelity.holds,
            observed="equal" if fidelity.holds else "; ".join(fidelity.differences),
            evidence=[f"graph {graph.exact_digest()[:16]}, {len(graph.evaluate.operations)} operations in evaluation"],
            hint="make forward depend on nothing but the images, the weights and torch's random numbers; the other findings "
            "hold for the captured graph only",
        )

    def confirm(self, model: ExaminedModel) -> Confirmation:
        """Evaluation passes over the same images must be equal, unless something random is active in evaluation."""
        structure, program = model.structure, model.captured.graph.evaluate
        active = any(site.active_in_evaluation for site in structure.dropouts)
        repeats = model.experiments.evaluation_repeats
        return Confirmation(
            agrees=repeats or active or bool(structure.random_operations(program)),
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
        """The shape."""
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
    """How many classes the output has, and whether it is log-probabilities or logits."""

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
        """Look at the operations that compute the output in evaluation, and at its numbers where no softmax does."""
        head = model.structure.head
        kind = (head.kind == "logits" and model.experiments.distribution) or head.kind
        has_classes = self.classes is None or head.classes == self.classes
        hint = (
            "train on log-probabilities (log_softmax with NLL loss) or on logits (cross entropy); softmax fits neither"
        )
        if head.changes:
            hint = f"return what the softmax gives or the scores before it, without {', '.join(head.changes)}"
        if not has_classes:
            hint = f"the last layer must return {self.classes} numbers per image, one for each class"
        return self.finding(
            holds=has_classes and kind in self._kinds,
            observed=f"{kind} of shape ({', '.join(str(dim) for dim in head.shape)})",
            evidence=[
                f"last layer with weights: {head.last_weighted}",
                *([f"after it: {', '.join(head.after)}"] if head.after else []),
                *([f"after the softmax: {', '.join(head.changes)}"] if head.changes else []),
            ],
            hint=hint,
        )


@dataclass(frozen=True, kw_only=True)
class BareHead(Requirement):
    """Nothing but the output's softmax after the last layer with weights."""

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
