"""The requirements on size, receptive field, batches, gradients, cost and biases, and the order of all: `REQUIREMENTS`.

To add a requirement, write its class here and enter it in `REQUIREMENTS`: its fields become keys of the contract.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from harness.contracts.features import AnyOf, BatchNorm, Dropout, GlobalAveragePooling, Linear
from harness.contracts.interface import BareHead, FaithfulCapture, InputShape, Output
from harness.contracts.requirement import (
    LISTED,
    Confirmation,
    ExaminedModel,
    Requirement,
    bounds_in_words,
    require_bounds,
)
from harness.findings import Finding
from harness.graph.form import Argument, Graph, Operation, Program, Ref, Shape, TensorSpec
from harness.graph.schema import bind
from harness.structure.experiments import IMAGES
from harness.structure.layers import operation_title


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
            if outcome == "other predictions":
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
            "a single image gets another prediction than in a batch": model.experiments.batch_size_invariant,
            "a prediction depends on the order of the images": model.experiments.permutation_equivariant,
            "a prediction depends on the other images": model.experiments.batch_independent,
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


@dataclass(frozen=True, kw_only=True)
class NoBiasBeforeNorm(Requirement):
    """With ``before_norm = false``: a batch norm right behind a convolution or linear layer leaves no bias without effect.

    A batch norm subtracts the mean of each channel over the batch, and with it every constant that was added to the
    channel; in evaluation its running mean holds the same constant. A bias is an argument of the layer, or a tensor of one
    number for each channel that is added to its result. Between the two there may be copies, changes of shape and other
    biases only. Group, layer and instance norms do not count, nor a batch norm with running statistics in training.
    """

    name = section = "bias"
    expected = "no bias of a convolution or linear layer that a batch norm right behind it removes"

    before_norm: bool = True

    @property
    def asked(self) -> bool:
        """Whether ``before_norm`` is false: true allows such biases and asks nothing."""
        return not self.before_norm

    def decide(self, model: ExaminedModel) -> Finding:
        """By the operations that read each layer's result, in training and in evaluation."""
        found = _removed_biases(model.captured.graph)
        certain = [bias for bias in found if bias.certain]
        listed = certain or found
        layers = ", ".join(dict.fromkeys(bias.layer for bias in listed[:LISTED]))
        total = sum({bias.tensor.name: bias.tensor.elements for bias in listed}.values())
        observed = "none"
        if found:
            observed = f"{total:,} parameters {'without' if certain else 'perhaps without'} effect, in {layers}"
        return self.finding(
            holds=not certain if certain or not found else None,
            observed=observed,
            evidence=[f"{bias.layer}: {bias.tensor.name} ({bias.tensor.elements:,})" for bias in listed[:LISTED]],
            hint=f"leave the bias out, with bias=False, in {layers}",
        )

    def confirm(self, model: ExaminedModel) -> Confirmation | None:
        """Adding numbers to the biases that are removed must not change the output of a training pass."""
        removed = {bias.tensor.name for bias in _removed_biases(model.captured.graph) if bias.certain}
        if not removed:
            return None
        module = model.captured.to_module().double().train()
        images = torch.rand((IMAGES, *module.graph.input_shape), dtype=torch.float64, generator=_generator())
        outputs = []
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            for _ in range(2):
                torch.manual_seed(_SEED)
                try:
                    outputs.append(module(images))
                except RuntimeError:
                    return None  # such as a model that cannot run in double precision
                for name, tensor in (*module.named_parameters(), *module.named_buffers()):
                    if name in removed:
                        tensor.add_(torch.randn(tensor.shape, dtype=tensor.dtype, generator=_generator()))
        same = bool((outputs[1] - outputs[0]).abs().max() <= _ROUNDING * outputs[0].abs().max())
        effect = "leaves the output of a training pass as it is" if same else "changes the output of a training pass"
        return Confirmation(agrees=same, observed=f"adding numbers to these biases {effect}")


_SEED = 5_113
# Relative to the output, in double precision: far above rounding, far below the effect of a bias.
_ROUNDING = 1e-9


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(_SEED)


@dataclass(frozen=True, kw_only=True)
class _RemovedBias:
    """A bias that a batch norm removes: a tensor, the layer that it belongs to, and whether that is certain."""

    tensor: TensorSpec
    layer: str
    certain: bool


def _removed_biases(graph: Graph) -> list[_RemovedBias]:
    """The tensors that are read as biases only, and removed wherever they are read, once for each layer."""
    reads: dict[str, list[_Read]] = {}
    for program, training in ((graph.train, True), (graph.evaluate, False)):
        for name, found in _LayerResults(graph, program, training=training).reads().items():
            reads.setdefault(name, []).extend(reversed(found))
    return [
        _RemovedBias(tensor=spec, layer=layer, certain=_all_removed(reads[spec.name]) is True)
        for spec in graph.tensors
        if _all_removed(reads.get(spec.name, [])) is not False
        for layer in dict.fromkeys(layer for layer, _ in reads[spec.name])
    ]


# The layer that a value is read for as a bias, and whether a batch norm removes it; None where that cannot be decided.
_Read = tuple[str, bool | None]


def _all_removed(reads: Sequence[_Read]) -> bool | None:
    verdicts = [removed for _, removed in reads]
    return False if False in verdicts or not verdicts else None if None in verdicts else True


class _LayerResults:
    """The results of the convolution and linear layers of one program, and the biases added to them."""

    def __init__(self, graph: Graph, program: Program, *, training: bool) -> None:
        self._training = training
        self._shapes: dict[str, Shape] = {spec.name: spec.shape for spec in graph.tensors}
        self._shapes |= {operation.name: operation.shape for operation in program.operations}
        # A value that an operation in place has written into is the result of that operation from then on.
        written: dict[str, str] = {}
        operations = []
        # The first value that is held in the memory of each value; what has views and is written into is not followed.
        self._memory: dict[str, str] = {}
        views, in_place = set[str](), set[str]()
        for operation in program.operations:
            current = replace(
                operation,
                args=tuple(_renamed(argument, written) for argument in operation.args),
                kwargs={key: _renamed(argument, written) for key, argument in operation.kwargs.items()},
            )
            operations.append(current)
            if not operation.kind.shares_memory or not isinstance(current.args[0], Ref):
                continue
            old = current.args[0].name
            self._memory[current.name] = self._memory.get(old, old)
            (in_place if operation.kind.in_place else views).add(self._memory[current.name])
            if operation.kind.in_place:
                written |= {name: current.name for name, now in (*written.items(), (old, old)) if now == old}
        self._entangled = views & in_place
        self._output = written.get(program.output, program.output)
        needed = {self._output}
        for operation in reversed(operations):
            needed |= set(operation.refs()) if operation.name in needed else set()
        self._operations = [operation for operation in operations if operation.name in needed]
        # The layer whose result a value holds, as it is or with biases added, and the value that it was made of.
        self._layers: dict[str, str] = {}
        self._sources: dict[str, str] = {}
        for operation in self._operations:
            source = next((ref for ref in operation.refs() if ref in self._layers), None)
            if operation.kind.family in ("convolution", "transposed convolution", "matrix product"):
                self._layers[operation.name] = f"{operation_title(operation)} {operation.module}".strip()
            elif source is not None and (operation.kind.family in _FOLLOWED or self._bias(operation)):
                self._layers[operation.name] = self._layers[source]
                self._sources[operation.name] = source

    def reads(self) -> dict[str, list[_Read]]:
        """Every read of each value; a value that only a bias is computed from is read as that bias."""
        reads: dict[str, list[_Read]] = {}
        for operation in reversed(self._operations):
            bias = self._bias(operation)
            result = reads.get(operation.name, []) if operation.name != self._output else []
            for ref in dict.fromkeys(operation.refs()):
                read = [("", False)] if _all_removed(result) is False else result
                if bias is not None and ref == bias[0]:
                    read = [(self._layers[operation.name], self._removed(operation.name, bias[1]))]
                reads.setdefault(ref, []).extend(read)
        return reads

    def _bias(self, operation: Operation) -> tuple[str, int] | None:
        """The value that an operation adds to the result of a layer, and the only dimension along which it varies."""
        bound, count = bind(operation), len(operation.shape)
        if operation.kind.name in ("add", "sub"):
            sides = [side.name for side in (bound.get("self"), bound.get("other")) if isinstance(side, Ref)]
            names = [name for name in sides if name not in self._layers]
            if len(sides) - len(names) != 1:
                return None
        else:
            side = bound.get("self" if operation.kind.name == "addmm" else "bias")
            names = [side.name] if isinstance(side, Ref) and operation.kind.family != "normalisation" else []
        if len(names) != 1:
            return None
        shape = self._shapes.get(names[0], ("B",))
        if "convolution" in operation.kind.family and isinstance(bound["weight"], Ref):
            return names[0], count - len(self._shapes[bound["weight"].name]) + 1
        varying = [count - len(shape) + dim for dim, size in enumerate(shape) if size != 1] or [1]
        return (names[0], varying[0]) if len(varying) == 1 else None

    def _removed(self, value: str, channels: int | None) -> bool | None:
        """Whether a batch norm removes from a value what varies along one dimension only; None if that cannot be decided.

        Args:
            value: its name.
            channels: the dimension; None where a change of shape left it unknown.
        """
        reads: list[_Read] = [("", False)] if value == self._output else []
        removed: bool | None
        for reader in self._operations:
            if value not in reader.refs() or not reader.outputs:
                continue
            bound = bind(reader)
            removed = False
            if reader.kind.name == "batch_norm" and bound.get("input") == Ref(value):
                by_batch = bound.get("training") is True or not self._training
                removed = by_batch and (None if channels is None else channels == 1)
            elif self._sources.get(reader.name) == value:
                removed = self._removed(reader.name, _moved(channels, reader, self._shapes[value]))
            reads.append(("", removed))
        removed = _all_removed(reads)
        return None if removed and self._memory.get(value, value) in self._entangled else removed


_FOLLOWED = ("copy", "reshape", "permutation")


def _renamed(argument: Argument, names: Mapping[str, str]) -> Argument:
    if isinstance(argument, tuple):
        return tuple(_renamed(item, names) for item in argument)
    return Ref(names.get(argument.name, argument.name)) if isinstance(argument, Ref) else argument


def _moved(dim: int | None, operation: Operation, before: Shape) -> int | None:
    """Where a copy, a change of shape or an added bias leaves a dimension; None if it does not stay one."""
    after, family, bound = operation.shape, operation.kind.family, bind(operation)
    if dim is None or family not in ("reshape", "permutation"):
        return dim
    if family == "permutation":
        order = list(range(len(before)))
        match bound.get("dims"), bound.get("dim0"), bound.get("dim1"):
            case (*dims,), _, _:
                order = [item % len(before) for item in dims if isinstance(item, int)]
            case _, int(a), int(b):
                order[a], order[b] = order[b], order[a]
            case _:
                order.reverse()
        return order.index(dim) if len(order) == len(before) else None
    if dim > 0 and len(after) == 2 and after[0] == before[0]:  # noqa: PLR2004 - one row for each image
        return 1  # each column is a channel of its own, in which nothing varies but from image to image
    behind = _elements(before[dim + 1 :])
    places = (place for place, size in enumerate(after) if place > 0 and size == before[dim])
    return next((place for place in places if behind and _elements(after[place + 1 :]) == behind), None)


def _elements(shape: Shape) -> int | None:
    sizes = [size for size in shape if isinstance(size, int)]
    return math.prod(sizes) if len(sizes) == len(shape) else None


REQUIREMENTS: tuple[type[Requirement], ...] = (
    FaithfulCapture,
    InputShape,
    Output,
    BareHead,
    ParameterBudget,
    ReceptiveFieldBound,
    GlobalAveragePooling,
    Dropout,
    BatchNorm,
    Linear,
    AnyOf,
    BatchRule,
    CompleteGradients,
    CostBound,
    NoBiasBeforeNorm,
)
