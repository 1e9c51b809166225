"""All requirements that a contract can ask, in the order in which they are decided: see `REQUIREMENTS` at the end.

To add one, write its class here and enter it there: its fields become keys of the contract.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from harness.contracts.features import FEATURES, AnyOf
from harness.contracts.requirement import (
    LISTED,
    Confirmation,
    ExaminedModel,
    Requirement,
    bounds_in_words,
    in_section,
    require_bounds,
    shape_in_words,
)
from harness.errors import ContractError
from harness.findings import Finding
from harness.structure.experiments import IMAGES
from harness.tables import require


@dataclass(frozen=True, kw_only=True)
class FaithfulCapture(Requirement):
    """The captured graph computes what the model computes; always asked, as everything else is decided on the graph."""

    name = "capture"
    section = ""
    expected = "the captured graph computes what the model computes, bit for bit, in training and in evaluation"

    def decide(self, model: ExaminedModel) -> Finding:
        """By what was compared at the capture."""
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
        active = any(site.active_in_evaluation and site.p > 0 for site in model.structure.dropouts)
        repeats = model.experiments.evaluation_repeats
        return Confirmation(
            agrees=repeats or active or bool(model.structure.random_operations),
            observed=f"evaluation passes over the same images {'are equal to the bit' if repeats else 'differ'}",
        )


@dataclass(frozen=True, kw_only=True)
class InputShape(Requirement):
    """The shape of one input image: channels, rows, columns."""

    name = "input"
    section = ""

    input: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        require(
            ContractError,
            bool(self.input) and all(size > 0 for size in self.input),
            "input to be a list of sizes above 0 such as [1, 28, 28]",
            input=list(self.input),
        )

    @property
    def expected(self) -> str:
        """The shape."""
        return f"images of shape {shape_in_words(self.input)} (channels, rows, columns)"

    def decide(self, model: ExaminedModel) -> Finding:
        """By the shape that the model was captured with."""
        found = model.captured.graph.input_shape
        return self.finding(
            holds=found == self.input,
            observed=f"the model runs on images of shape {shape_in_words(found)}",
            hint=f"build the model for {self.input[0]} channel(s) of {shape_in_words(self.input[1:])} pixels",
        )


@dataclass(frozen=True, kw_only=True)
class Output(Requirement):
    """How many classes the output has, and whether it is log-probabilities or logits."""

    name = "output"
    section = ""

    classes: int | None = None
    output: Literal["log-probabilities", "logits"] | None = in_section("head", None)

    def __post_init__(self) -> None:
        require(
            ContractError,
            self.classes is None or self.classes > 0,
            "classes to be a whole number from 1",
            classes=self.classes,
        )

    @property
    def asked(self) -> bool:
        """Whether a number of classes or a kind of output is given."""
        return self.classes is not None or self.output is not None

    @property
    def _kinds(self) -> tuple[str, ...]:
        return ("log-probabilities", "logits") if self.output is None else (self.output,)

    @property
    def expected(self) -> str:
        """The kinds of output, and the number of classes."""
        return " or ".join(self._kinds) + ("" if self.classes is None else f" for {self.classes} classes")

    def decide(self, model: ExaminedModel) -> Finding:
        """By the operations that give the output in evaluation."""
        head = model.structure.head
        has_classes = self.classes is None or head.classes == self.classes
        hint = (
            "train on log-probabilities (log_softmax with NLL loss) or on logits (cross entropy); softmax fits neither"
        )
        if not has_classes:
            hint = f"the last layer must give {self.classes} numbers an image, one a class"
        return self.finding(
            holds=has_classes and head.kind in self._kinds,
            observed=f"{head.kind} of shape ({', '.join(str(dim) for dim in head.shape)})",
            evidence=[
                f"last layer with weights: {head.last_weighted}",
                *([f"after it: {', '.join(head.after)}"] if head.after else []),
            ],
            hint=hint,
        )


@dataclass(frozen=True, kw_only=True)
class BareHead(Requirement):
    """Nothing but the output's softmax after the last layer with weights."""

    name = section = "head"

    expected = "no activation, normalisation or dropout between the last layer with weights and the output"

    bare: bool = False

    @property
    def asked(self) -> bool:
        """Whether ``bare`` is true."""
        return self.bare

    def decide(self, model: ExaminedModel) -> Finding:
        """By the operations after the last layer with weights."""
        head = model.structure.head
        after = ", ".join(head.after)
        return self.finding(
            holds=not after,
            observed=f"{after or 'nothing'} after {head.last_weighted}",
            hint=f"remove {after}: it changes or clips the scores that tell the classes apart",
        )


@dataclass(frozen=True, kw_only=True)
class ParameterBudget(Requirement):
    """How many parameters are allowed; hidden state counts towards them unless ``hidden_state`` is false.

    ``below`` is strict, ``max`` and ``min`` are inclusive.
    """

    name = section = "parameters"

    below: int | None = None
    max: int | None = None
    min: int | None = None
    hidden_state: bool = True

    def __post_init__(self) -> None:
        require_bounds(below=self.below, max=self.max, min=self.min)

    @property
    def expected(self) -> str:
        """The bounds."""
        return f"{bounds_in_words(below=self.below, most=self.max, least=self.min)} parameters"

    def explain(self) -> str:
        """The bounds, and what counts."""
        hidden = (
            "numbers in constants and in buffers that are no normalisation statistics count, too"
            if self.hidden_state
            else "only declared parameters count"
        )
        return f"{super().explain()[:-1]}; shared ones count once, uncalled ones count, and {hidden}."

    def decide(self, model: ExaminedModel) -> Finding:
        """By the tensors that the model declares and reads."""
        count = model.structure.parameters
        counted = count.total + (count.hidden_elements if self.hidden_state else 0)
        over = max(
            counted - self.below + 1 if self.below is not None else 0,
            counted - self.max if self.max is not None else 0,
        )
        evidence = [f"{count.total:,} parameters, {count.trainable:,} of them trainable, shared ones counted once"]
        if count.unreached:
            names = ", ".join(spec.name for spec in count.unreached[:LISTED])
            evidence.append(f"{count.unreached_elements:,} of them are never read by forward: {names}")
        if count.hidden:
            names = ", ".join(f"{spec.name} ({spec.elements:,})" for spec in count.hidden[:LISTED])
            words = "counted" if self.hidden_state else "not counted, as the contract says"
            evidence.append(f"{count.hidden_elements:,} numbers in constants and buffers, {words}: {names}")
        hint = f"remove at least {over:,}" if over > 0 else "the contract asks for a larger model"
        if 0 < over <= count.unreached_elements:
            hint += "; removing the modules that forward never calls is enough"
        hidden = f" ({count.total:,} and {count.hidden_elements:,} hidden)" if counted != count.total else ""
        return self.finding(
            holds=over <= 0 and (self.min is None or counted >= self.min),
            observed=f"{counted:,} parameters{hidden}",
            evidence=evidence,
            hint=hint,
        )


@dataclass(frozen=True, kw_only=True)
class ReceptiveFieldBound(Requirement):
    """How much of the image a position sees, in pixels along both axes, before the head's pooling or including it."""

    name = section = "receptive_field"

    min: int | None = None
    max: int | None = None
    including_pool: bool = False

    def __post_init__(self) -> None:
        require_bounds(min=self.min, max=self.max)

    @property
    def expected(self) -> str:
        """The bounds, and where they hold."""
        where = "including the head's pooling" if self.including_pool else "before the head's pooling"
        return f"a receptive field of {bounds_in_words(most=self.max, least=self.min)} pixels {where}"

    def decide(self, model: ExaminedModel) -> Finding:
        """By the field arithmetic; where it gives an upper bound only, that decides what it excludes."""
        value, before = model.structure.field_before_head
        field = model.structure.field_with_head if self.including_pool else before
        too_small = self.min is not None and field.size < self.min
        too_large = self.max is not None and max(field.rows.size, field.columns.size) > self.max
        holds: bool | None = None
        if field.certainty == "exact":
            holds = not too_small and not too_large
        elif field.certainty == "bound" and too_small:
            holds = False
        elif field.certainty == "bound" and self.min is None and not too_large:
            holds = True
        size = f"{field.rows.size}"
        if field.rows.size != field.columns.size:
            size += f"x{field.columns.size}"
        place = "the output" if self.including_pool else value
        hint = ""
        if too_small:
            hint = "add a convolution, or pool earlier: each 3x3 convolution adds 2 pixels, after a pooling by two 4"
        elif too_large:
            hint = "remove a convolution, or pool later"
        return self.finding(
            holds=holds,
            observed=f"{size} ({field.certainty})",
            evidence=[
                f"{size} pixels at {place}, {field.clipped} of them inside the image",
                *([field.note] if field.note else []),
            ],
            hint=hint,
        )

    def confirm(self, model: ExaminedModel) -> Confirmation:
        """A NaN in single pixels must reach the positions whose exact field holds them, and no others."""
        fields = model.experiments.fields
        if fields.disagreements:
            places = ", ".join(fields.disagreements[:LISTED])
            return Confirmation(
                agrees=False, observed=f"a NaN in single pixels reaches other positions than computed at {places}"
            )
        return Confirmation(
            agrees=True,
            observed=f"a NaN in single pixels reaches exactly the computed positions, in {fields.checked} values",
        )


@dataclass(frozen=True, kw_only=True)
class BatchRule(Requirement):
    """How the model treats a batch in evaluation.

    ``independent``: an image's prediction does not depend on the other images, nor on their order or number.
    ``strict_size``: images of another size are an error or get one prediction each.
    """

    name = section = "batch"

    independent: bool = False
    strict_size: bool = False

    @property
    def asked(self) -> bool:
        """Whether either key is true."""
        return self.independent or self.strict_size

    @property
    def expected(self) -> str:
        """What is asked by each key that is true."""
        asked = []
        if self.independent:
            asked.append("in evaluation a prediction depends neither on the other images nor on their order or number")
        if self.strict_size:
            asked.append("images of another size are an error or get one prediction each, never more or fewer")
        return "; ".join(asked)

    def decide(self, model: ExaminedModel) -> Finding:
        """By experiments: images alone, permuted, and among others."""
        faults: list[str] = []
        evidence: list[str] = []
        repeats = not self.independent or model.experiments.evaluation_repeats
        if self.independent:
            faults, evidence = self._dependences(model) if repeats else ([], [_RANDOM])
        if self.strict_size:
            outcome = model.captured.fidelity.other_size
            evidence.append(f"images four pixels larger: {outcome}")
            if outcome == "other answers":
                faults.append("images of another size get more or fewer predictions than there are images")
        return self.finding(
            holds=not faults if repeats or faults else None,
            observed="; ".join(faults) or ("as asked" if repeats else "predictions in evaluation are random"),
            evidence=evidence,
            hint="flatten with x.flatten(1) or x.view(x.size(0), -1), and keep running statistics in batch norm"
            if faults
            else "",
        )

    def _dependences(self, model: ExaminedModel) -> tuple[list[str], list[str]]:
        outcomes = {
            "a single image gets another prediction than in a batch": model.experiments.alone_as_in_crowd,
            "a prediction depends on the order of the images": model.experiments.order_immaterial,
            "a prediction depends on the other images": model.experiments.neighbours_immaterial,
        }
        compared = f"{IMAGES} images compared alone, together, permuted, and among others, in double precision"
        return [words for words, holds in outcomes.items() if not holds], [compared]


_RANDOM = "evaluation passes over the same images differ, so that comparing batches shows nothing"


@dataclass(frozen=True, kw_only=True)
class CompleteGradients(Requirement):
    """Every trainable parameter gets a finite gradient that is not zero throughout."""

    name = section = "gradients"

    expected = "a finite gradient, not zero throughout, for every trainable parameter"

    complete: bool = False

    @property
    def asked(self) -> bool:
        """Whether ``complete`` is true."""
        return self.complete

    def decide(self, model: ExaminedModel) -> Finding:
        """By one backward pass in training mode."""
        gradients = model.experiments.gradients
        faults = []
        if gradients.failure:
            faults.append(f"the backward pass fails: {gradients.failure}")
        if gradients.missing:
            faults.append(f"no gradient for {', '.join(gradients.missing[:LISTED])}")
        if gradients.not_finite:
            faults.append(f"a gradient that is not finite for {', '.join(gradients.not_finite[:LISTED])}")
        hint = ""
        if gradients.failure:
            hint = "change nothing in place that another layer still needs: leave inplace=True out"
        elif gradients.missing:
            hint = "remove the modules that forward does not use, or let the output depend on them"
        return self.finding(
            holds=gradients.complete,
            observed="; ".join(faults) or "every trainable parameter has one",
            evidence=["one backward pass in training mode"],
            hint=hint,
        )


@dataclass(frozen=True, kw_only=True)
class CostBound(Requirement):
    """What one image may cost in evaluation: multiply-accumulates, and bytes of all activations together; inclusive."""

    name = section = "cost"

    max_macs: int | None = None
    max_activation_bytes: int | None = None

    def __post_init__(self) -> None:
        require_bounds(max_macs=self.max_macs, max_activation_bytes=self.max_activation_bytes)

    @property
    def expected(self) -> str:
        """The bounds."""
        macs = [f"{self.max_macs:,} multiply-accumulates"] if self.max_macs is not None else []
        memory = (
            [f"{self.max_activation_bytes:,} bytes of activations"] if self.max_activation_bytes is not None else []
        )
        return f"at most {' and '.join([*macs, *memory])} an image"

    def decide(self, model: ExaminedModel) -> Finding:
        """By the sums over all layers."""
        layers = model.structure.layers
        macs, memory = sum(layer.macs for layer in layers), sum(layer.activation_bytes for layer in layers)
        largest = max(layers, key=lambda layer: layer.macs, default=None)
        return self.finding(
            holds=(self.max_macs is None or macs <= self.max_macs)
            and (self.max_activation_bytes is None or memory <= self.max_activation_bytes),
            observed=f"{macs:,} multiply-accumulates and {memory:,} bytes of activations an image",
            evidence=[f"most of it in {largest.title} {largest.module}: {largest.macs:,}"] if largest else [],
            hint="fewer channels in the early, large maps, or a pooling earlier",
        )


REQUIREMENTS: tuple[type[Requirement], ...] = (
    FaithfulCapture,
    InputShape,
    Output,
    BareHead,
    ParameterBudget,
    ReceptiveFieldBound,
    *FEATURES,
    AnyOf,
    BatchRule,
    CompleteGradients,
    CostBound,
)
