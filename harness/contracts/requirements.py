"""Requirements on size, receptive field, batches, gradients, cost and biases; `REQUIREMENTS` lists all, in order.

To add a requirement, write its class here and add it to `REQUIREMENTS`: its fields become keys of the contract.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

from harness.contracts.features import AnyOf, BatchNorm, Dropout, GlobalAveragePooling, Linear
from harness.contracts.interface import BareHead, FaithfulCapture, InputShape, Output
from harness.contracts.requirement import LISTED, Bound, Confirmation, ExaminedModel, Requirement, bounds_in_words
from harness.findings import Finding
from harness.graph.form import Argument, Graph, Operation, Program, Ref, Shape, TensorSpec, bind
from harness.structure.interventions import IMAGES
from harness.structure.layers import operation_title


@dataclass(frozen=True, kw_only=True)
class ParameterBudget(Requirement):
    """Limits on parameters and, if ``hidden_state``, constants and buffers but normalisation statistics.

    ``below`` is strict, ``max`` and ``min`` are inclusive.
    """

    name = section = "parameters"

    bounds = ("below", "max", "min")

    below: Bound = None
    max: Bound = None
    min: Bound = None
    hidden_state: bool = True

    @property
    def expected(self) -> str:
        """The bounds."""
        return f"{bounds_in_words(below=self.below, most=self.max, least=self.min)} parameters"

    def explain(self) -> str:
        """The bounds and what is counted."""
        hidden = "only declared parameters count"
        if self.hidden_state:
            hidden = "numbers in constants and in buffers other than normalisation statistics count, too"
        return f"{super().explain()[:-1]}; shared ones count once, uncalled ones count, and {hidden}."

    def decide(self, model: ExaminedModel) -> Finding:
        """Count the elements of the tensors that the model declares and reads."""
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
    """Limits on the receptive field, in pixels along both axes, before the head's pooling or including it."""

    name = section = "receptive_field"

    bounds = ("min", "max")

    min: Bound = None
    max: Bound = None
    including_pool: bool = False

    @property
    def expected(self) -> str:
        """The bounds and where they apply."""
        where = "including the head's pooling" if self.including_pool else "before the head's pooling"
        return f"a receptive field of {bounds_in_words(most=self.max, least=self.min)} pixels {where}"

    def decide(self, model: ExaminedModel) -> Finding:
        """Check the receptive field; a mere upper bound on it can only violate ``min`` or satisfy ``max``."""
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
        hint = "remove a convolution, or pool later" if too_large else ""
        if too_small:
            hint = "add a convolution, or pool earlier: each 3x3 convolution adds 2 pixels, and 4 after a 2x2 pooling"
        evidence = [f"{size} pixels at {place}, {field.clipped} of them inside the image"]
        evidence += [field.note] if field.note else []
        return self.finding(holds=holds, observed=f"{size} ({field.certainty})", evidence=evidence, hint=hint)

    def confirm(self, model: ExaminedModel) -> Confirmation:
        """A NaN in one pixel must reach exactly the positions whose receptive field contains it."""
        fields = model.experiments.fields
        reached = f"exactly the computed positions, in {fields.checked} values"
        if fields.disagreements:
            reached = f"other positions than computed at {', '.join(fields.disagreements[:LISTED])}"
        return Confirmation(not fields.disagreements, f"a NaN in single pixels reaches {reached}")


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
    def expected(self) -> str:
        """The requirement of each true key."""
        asked = []
        if self.independent:
            asked.append("in evaluation a prediction depends neither on the other images nor on their order or number")
        if self.strict_size:
            asked.append("images of another size are an error or get one prediction each, never more or fewer")
        return "; ".join(asked)

    def decide(self, model: ExaminedModel) -> Finding:
        """Run experiments: images alone, permuted, and in a batch with others."""
        faults: list[str] = []
        evidence: list[str] = []
        experiments = model.experiments
        changed = model.structure.changed_in_evaluation
        repeats = not self.independent or (experiments.evaluation_repeats and experiments.has_predictions)
        if self.independent and repeats:
            outcomes = {
                "a single image gets another prediction than in a batch": experiments.batch_size_invariant,
                "a prediction depends on the order of the images": experiments.permutation_equivariant,
                "a prediction depends on the other images": experiments.batch_independent,
            }
            faults = [words for words, holds in outcomes.items() if not holds]
            evidence = [f"{IMAGES} images compared alone, together, permuted, and among others, in double precision"]
        elif self.independent and experiments.evaluation_repeats:
            evidence = ["no prediction is finite, so that comparing batches shows nothing"]
        elif self.independent:
            evidence = ["evaluation passes over the same images differ, so that comparing batches shows nothing"]
            if changed and not model.structure.random_operations(model.captured.graph.evaluate):
                faults.append(
                    f"a prediction depends on earlier passes: evaluation changes {', '.join(changed[:LISTED])}"
                )
        if self.strict_size:
            outcome = model.captured.fidelity.other_size
            evidence.append(f"images four pixels larger: {outcome}")
            if outcome == "other predictions":
                faults.append("images of another size get more or fewer predictions than there are images")
        return self.finding(
            holds=not faults if repeats or faults else None,
            observed="; ".join(faults)
            or ("as asked" if repeats else "predictions in evaluation are random or not finite"),
            evidence=evidence,
            hint="flatten with x.flatten(1) or x.view(x.size(0), -1), and keep running statistics in batch norm"
            if faults
            else "",
        )


@dataclass(frozen=True, kw_only=True)
class CompleteGradients(Requirement):
    """Every trainable parameter gets a finite gradient that is not all zeros."""

    name = section = "gradients"

    expected = "a finite gradient, not zero throughout, for every trainable parameter"

    complete: bool = False

    def decide(self, model: ExaminedModel) -> Finding:
        """Run backward passes in training mode."""
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
            hint = "do not change values in place that the backward pass still needs: remove inplace=True"
        elif gradients.missing:
            unread = {spec.name for spec in model.structure.parameters.unreached}
            hint = "let the output depend on them, without detach() and without zeros in all weights of two layers in a row"
            if unread.issuperset(gradients.missing):
                hint = "remove the modules that forward does not use, or let the output depend on them"
        return self.finding(
            holds=gradients.complete,
            observed="; ".join(faults) or "every trainable parameter has one",
            evidence=["backward passes of a few training steps"],
            hint=hint,
        )


@dataclass(frozen=True, kw_only=True)
class CostBound(Requirement):
    """Inclusive limits per image in evaluation: multiply-accumulates, and total bytes of activations."""

    name = section = "cost"

    bounds = ("max_macs", "max_activation_bytes")

    max_macs: Bound = None
    max_activation_bytes: Bound = None

    @property
    def expected(self) -> str:
        """The bounds."""
        bounds = ((self.max_macs, "multiply-accumulates"), (self.max_activation_bytes, "bytes of activations"))
        return f"at most {' and '.join(f'{most:,} {what}' for most, what in bounds if most is not None)} an image"

    def decide(self, model: ExaminedModel) -> Finding:
        """Sum the costs of all layers."""
        layers = model.structure.layers
        macs, memory = sum(layer.macs for layer in layers), sum(layer.activation_bytes for layer in layers)
        largest = max(layers, key=lambda layer: layer.macs, default=None)
        return self.finding(
            holds=(self.max_macs is None or macs <= self.max_macs)
            and (self.max_activation_bytes is None or memory <= self.max_activation_bytes),
            observed=f"{macs:,} multiply-accumulates and {memory:,} bytes of activations an image",
            evidence=[f"most of it in {largest.title} {largest.module}: {largest.macs:,}"] if largest else [],
            hint="use fewer channels in the early, large maps, or pool earlier",
        )


@dataclass(frozen=True, kw_only=True)
class NoBiasBeforeNorm(Requirement):
    """If ``before_norm = false``, no convolution or linear layer has a bias that a batch norm right after it cancels.

    A batch norm subtracts the mean of each channel over the batch, and with it every constant that was added to the
    channel; in evaluation its running mean holds the same constant. A bias is an argument of the layer, or a tensor of one
    number for each channel that is added to its result. Only copies, reshapes and other biases may lie between layer and
    norm. Group, layer and instance norms are ignored, as are batch norms that use running statistics in training.
    """

    name = section = "bias"
    expected = "no bias of a convolution or linear layer that a batch norm right behind it removes"

    before_norm: bool = True

    def decide(self, model: ExaminedModel) -> Finding:
        """Follow the result of each layer to the operations that read it, in training and in evaluation."""
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
        """Changing the cancelled biases must not change the output of a training pass."""
        removed = {bias.tensor.name for bias in _removed_biases(model.captured.graph) if bias.certain}
        if not removed:
            return None
        outputs = []
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            for changed in (False, True):
                # A new module for each: a pass may change its state.
                module = model.captured.to_module().double().train()
                torch.manual_seed(_SEED)
                images = torch.rand((IMAGES, *module.graph.input_shape), dtype=torch.float64)
                for name, tensor in (*module.named_parameters(), *module.named_buffers()):
                    if name in removed and changed:
                        generator = torch.Generator().manual_seed(_SEED)
                        tensor.add_(torch.randn(tensor.shape, dtype=tensor.dtype, generator=generator))
                try:
                    outputs.append(module(images).double())
                except RuntimeError:
                    return None  # such as a model that cannot run in double precision
        finite = outputs[0].isfinite() & outputs[1].isfinite()
        if not finite.any():
            return None
        size = outputs[0][finite].abs().max()
        same = bool((outputs[1] - outputs[0])[finite].abs().max() <= _ROUNDING * size)
        effect = "leaves the output of a training pass as it is" if same else "changes the output of a training pass"
        return Confirmation(agrees=same, observed=f"adding numbers to these biases {effect}")


_SEED = 5_113
# Relative to the output, in double precision: far above rounding, far below the effect of a bias.
_ROUNDING = 1e-9


class _RemovedBias(NamedTuple):
    """A bias that a batch norm cancels: the tensor, its layer, and whether this is certain."""

    tensor: TensorSpec
    layer: str
    certain: bool


# Whether a batch norm cancels a bias, by tensor and layer; None where that cannot be decided.
_Verdicts = dict[str, dict[str, list[bool | None]]]


def _removed_biases(graph: Graph) -> list[_RemovedBias]:
    """Tensors used only as biases, all of whose uses a batch norm cancels, once for each layer."""
    verdicts: _Verdicts = {spec.name: {} for spec in graph.tensors}
    _judge_biases(graph, graph.train, verdicts)
    _judge_biases(graph, graph.evaluate, verdicts)
    removed = {name: _all_removed(map(_all_removed, layers.values())) for name, layers in verdicts.items()}
    return [
        _RemovedBias(spec, layer, removed[spec.name] is True)
        for spec in graph.tensors
        if removed[spec.name] is not False
        for layer in verdicts[spec.name]
    ]


def _all_removed(verdicts: Iterable[bool | None]) -> bool | None:
    return min(verdicts, key=(False, None, True).index, default=False)


class _Bias(NamedTuple):
    """A tensor that is a bias of a layer, and the only dimension along which it varies; None if that is unknown."""

    tensor: str
    layer: str
    dim: int | None


def _judge_biases(graph: Graph, program: Program, verdicts: _Verdicts) -> None:
    """Trace each bias tensor to its layers, and their results to the operations that read them.

    Each such operation adds a verdict. A tensor that reaches the output not as a bias has False for layer "".
    """
    operations, output, entangled = _without_in_place(program)
    shapes: dict[str, Shape] = {spec.name: spec.shape for spec in graph.tensors}
    shapes |= {operation.name: operation.shape for operation in operations}
    # The tensors that a value is computed from, other than as biases.
    tensors = {name: {name} for name in verdicts}
    # The layer whose result a value holds, as it is or with biases added, and these biases.
    layers: dict[str, str] = {}
    biases: defaultdict[str, list[_Bias]] = defaultdict(list)
    for operation in operations:
        name, refs, family = operation.name, dict.fromkeys(operation.refs()), operation.kind.family
        added, dim = _added_bias(operation, shapes, layers)
        source = next((ref for ref in refs if ref in layers), "")
        if family in ("convolution", "transposed convolution", "matrix product"):
            source, layers[name] = "", f"{operation_title(operation)} {operation.module}".strip()
        elif source and (added or family in ("copy", "reshape", "permutation")):
            layers[name] = layers[source]
            biases[name] = [bias._replace(dim=_moved(bias.dim, operation, shapes[source])) for bias in biases[source]]
        else:
            source = added = ""
        tensors[name] = set().union(*(tensors.get(ref, ()) for ref in refs if ref != added))
        for tensor in tensors.get(added, ()):
            biases[name].append(_Bias(tensor, layers[name], dim))
            verdicts[tensor].setdefault(layers[name], [])
        for ref in refs if operation.outputs else ():
            for bias in biases[ref] if ref != source else ():
                removed = _removes(operation, ref, bias.dim, training=program is graph.train)
                verdicts[bias.tensor][bias.layer].append(removed)
        for bias in biases[name] if name in entangled else ():
            verdicts[bias.tensor][bias.layer].append(None)
    for bias in biases[output]:
        verdicts[bias.tensor][bias.layer].append(False)
    for tensor in tensors.get(output, ()):
        verdicts[tensor][""] = [False]


def _removes(reader: Operation, value: str, dim: int | None, *, training: bool) -> bool | None:
    """Whether an operation cancels a bias in its input ``value``; the bias varies along ``dim`` only."""
    bound = bind(reader)
    by_batch = not training or bound.get("training") is True
    if reader.kind.name != "batch_norm" or bound.get("input") != Ref(value) or not by_batch:
        return False
    return None if dim is None else dim == 1


def _added_bias(operation: Operation, shapes: Mapping[str, Shape], layers: Container[str]) -> tuple[str, int]:
    """The value added as a bias to a layer's result, and the only dimension along which it varies; "" if none."""
    bound, count = bind(operation), len(operation.shape)
    if operation.kind.name in ("add", "sub"):
        refs = list(operation.refs())
        names = [ref for ref in refs if ref not in layers]
        if len(refs) - len(names) != 1:
            return "", 0
    else:
        side = bound.get("self" if operation.kind.name == "addmm" else "bias")
        names = [side.name] if isinstance(side, Ref) and operation.kind.family != "normalisation" else []
    if len(names) != 1:
        return "", 0
    shape = shapes.get(names[0], ("B",))
    if "convolution" in operation.kind.family and isinstance(bound["weight"], Ref):
        return names[0], count - len(shapes[bound["weight"].name]) + 1
    varying = [count - len(shape) + dim for dim, size in enumerate(shape) if size != 1] or [1]
    return (names[0], varying[0]) if len(varying) == 1 else ("", 0)


def _without_in_place(program: Program) -> tuple[list[Operation], str, set[str]]:
    """The operations the output depends on, and the output's name; reads after in-place writes use their results.

    Also returns values whose memory has views and in-place writes: for these it does not hold.
    """
    operations = []
    written: dict[str, str] = {}
    # The first value that is held in the memory of each value.
    memory: dict[str, str] = {}
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
        memory[current.name] = memory.setdefault(old, old)
        (in_place if operation.kind.in_place else views).add(memory[old])
        if operation.kind.in_place:
            written |= {name: current.name for name, now in (*written.items(), (old, old)) if now == old}
    output = written.get(program.output, program.output)
    needed = {output}
    for operation in reversed(operations):
        needed |= set(operation.refs()) if operation.name in needed else set()
    entangled = {name for name, first in memory.items() if first in views & in_place}
    return [operation for operation in operations if operation.name in needed], output, entangled


def _renamed(argument: Argument, names: Mapping[str, str]) -> Argument:
    if isinstance(argument, tuple):
        return tuple(_renamed(item, names) for item in argument)
    return Ref(names.get(argument.name, argument.name)) if isinstance(argument, Ref) else argument


def _moved(dim: int | None, operation: Operation, before: Shape) -> int | None:
    """Index of a dimension after a copy, a change of shape or an added bias; None if split or merged."""
    after = operation.shape
    if dim is None or operation.kind.family not in ("reshape", "permutation"):
        return dim
    if operation.kind.family == "permutation":
        # A tensor without memory whose sizes are the numbers of its dimensions shows where each goes.
        permute = getattr(torch, operation.kind.name)
        numbered = torch.empty(tuple(range(len(before))), device="meta")
        return list(permute(numbered, *operation.args[1:], **operation.kwargs).shape).index(dim)
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
