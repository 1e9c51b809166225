"""Requirements on size, receptive field, batches, gradients, cost and biases.

`REQUIREMENTS` lists the requirements of all modules in the order of findings. To add a requirement, write a class here and
enter the class in `REQUIREMENTS`: the fields become keys of contracts.
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
    """Limits on the number of parameters.

    ``below`` is a strict limit, ``max`` and ``min`` are inclusive. If ``hidden_state``, elements of constants and buffers
    count as parameters, except normalisation statistics.
    """

    name = section = "parameters"

    bounds = ("below", "max", "min")

    below: Bound = None
    max: Bound = None
    min: Bound = None
    hidden_state: bool = True

    @property
    def expected(self) -> str:
        """The limits on the number of parameters, as a phrase."""
        return f"{bounds_in_words(below=self.below, most=self.max, least=self.min)} parameters"

    def explain(self) -> str:
        """A sentence with the limits on the number of parameters and with what is counted."""
        hidden = "constants and buffers do not count"
        if self.hidden_state:
            hidden = "elements of constants and of buffers other than normalisation statistics count, too"
        return f"{super().explain()[:-1]}; shared parameters count once, unused parameters count, and {hidden}."

    def decide(self, model: ExaminedModel) -> Finding:
        """Count the elements of all parameters and, if ``hidden_state``, of the constants and buffers that forward reads."""
        count = model.structure.parameters
        counted = count.total + (count.hidden_elements if self.hidden_state else 0)
        over = max(
            counted - self.below + 1 if self.below is not None else 0,
            counted - self.max if self.max is not None else 0,
        )
        evidence = [f"{count.total:,} parameters, {count.trainable:,} of them trainable; shared parameters count once"]
        if count.unreached:
            names = ", ".join(spec.name for spec in count.unreached[:LISTED])
            evidence.append(f"{count.unreached_elements:,} parameters are never read by forward: {names}")
        if count.hidden:
            names = ", ".join(f"{spec.name} ({spec.elements:,})" for spec in count.hidden[:LISTED])
            words = "counted" if self.hidden_state else "not counted, as the contract says"
            evidence.append(f"{count.hidden_elements:,} elements of constants and buffers, {words}: {names}")
        hint = (
            f"remove at least {over:,} of the parameters"
            if over > 0
            else "add parameters: the contract requires a larger model"
        )
        if 0 < over <= count.unreached_elements:
            hint += "; removing the modules that forward never calls is enough"
        hidden = f", {count.hidden_elements:,} of them in constants and buffers" if counted != count.total else ""
        return self.finding(
            holds=over <= 0 and (self.min is None or counted >= self.min),
            observed=f"{counted:,} parameters{hidden}",
            evidence=evidence,
            hint=hint,
        )


@dataclass(frozen=True, kw_only=True)
class ReceptiveFieldBound(Requirement):
    """Inclusive limits on the size of the receptive field along both axes, in pixels.

    The receptive field is that of the feature map before the head's global pooling or, if ``including_pool``, of the output.
    """

    name = section = "receptive_field"

    bounds = ("min", "max")

    min: Bound = None
    max: Bound = None
    including_pool: bool = False

    @property
    def expected(self) -> str:
        """The limits on the receptive field, and for which value they hold, as a phrase."""
        where = "including the head's pooling" if self.including_pool else "before the head's pooling"
        return f"a receptive field of {bounds_in_words(most=self.max, least=self.min)} pixels {where}"

    def decide(self, model: ExaminedModel) -> Finding:
        """Compare the size of the receptive field with the limits.

        If only an upper bound of the size is known, the bound can show that ``min`` is violated or ``max`` is met.
        """
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
        evidence = [f"the receptive field of {place} has {size} pixels, {field.clipped} of them inside the image"]
        evidence += [field.note] if field.note else []
        return self.finding(holds=holds, observed=f"{size} pixels ({field.certainty})", evidence=evidence, hint=hint)

    def confirm(self, model: ExaminedModel) -> Confirmation:
        """Check that a NaN in one pixel makes exactly those positions NaN whose receptive field contains the pixel."""
        fields = model.experiments.fields
        reached = f"the same receptive fields as the graph, in {fields.checked} values"
        if fields.disagreements:
            reached = f"other receptive fields than the graph at {', '.join(fields.disagreements[:LISTED])}"
        return Confirmation(not fields.disagreements, f"setting single pixels to NaN shows {reached}")


@dataclass(frozen=True, kw_only=True)
class BatchRule(Requirement):
    """How predictions in evaluation depend on the batch.

    ``independent``: an image's prediction does not depend on the other images, nor on their order or number.
    ``strict_size``: for images of another size, the model fails or returns one prediction per image.
    """

    name = section = "batch"

    independent: bool = False
    strict_size: bool = False

    @property
    def expected(self) -> str:
        """The requirements of the keys that are true, as phrases."""
        asked = []
        if self.independent:
            asked.append("in evaluation a prediction depends neither on the other images nor on their order or number")
        if self.strict_size:
            asked.append(
                "for images of another size, the model fails or returns one prediction per image, never more or fewer"
            )
        return "; ".join(asked)

    def decide(self, model: ExaminedModel) -> Finding:
        """Compare the predictions for images alone, in a batch, in another order, and with other images in the batch."""
        faults: list[str] = []
        evidence: list[str] = []
        experiments = model.experiments
        changed = model.structure.changed_in_evaluation
        repeats = not self.independent or (experiments.evaluation_repeats and experiments.has_predictions)
        if self.independent and repeats:
            outcomes = {
                "a single image gets another prediction than in a larger batch": experiments.batch_size_invariant,
                "a prediction depends on the order of the images": experiments.permutation_equivariant,
                "a prediction depends on the other images": experiments.batch_independent,
            }
            faults = [words for words, holds in outcomes.items() if not holds]
            evidence = [
                f"{IMAGES} images compared alone, in a batch, permuted, and with other images, in double precision"
            ]
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
            evidence.append(f"result for images four pixels larger in height and width: {outcome}")
            if outcome == "other predictions":
                faults.append("for images of another size, the model returns more or fewer predictions than images")
        return self.finding(
            holds=not faults if repeats or faults else None,
            observed="; ".join(faults)
            or ("as required" if repeats else "predictions in evaluation are random or not finite"),
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
        """Check the gradients of all trainable parameters in a few training steps."""
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
            hint = "do not change a tensor in place if the backward pass needs its values: remove inplace=True"
        elif gradients.missing:
            unread = {spec.name for spec in model.structure.parameters.unreached}
            hint = (
                "make the output depend on these parameters, without detach() and without initialising all weights of two "
                "layers in a row to zero"
            )
            if unread.issuperset(gradients.missing):
                hint = "remove the modules that forward does not use, or call these modules in forward"
        return self.finding(
            holds=gradients.complete,
            observed="; ".join(faults) or "every trainable parameter has a finite gradient that is not zero throughout",
            evidence=["gradients were computed in a few training steps with random images"],
            hint=hint,
        )


@dataclass(frozen=True, kw_only=True)
class CostBound(Requirement):
    """Inclusive limits on the multiply-accumulates and on the total bytes of activations for one image."""

    name = section = "cost"

    bounds = ("max_macs", "max_activation_bytes")

    max_macs: Bound = None
    max_activation_bytes: Bound = None

    @property
    def expected(self) -> str:
        """The limits on the cost, as a phrase."""
        bounds = ((self.max_macs, "multiply-accumulates"), (self.max_activation_bytes, "bytes of activations"))
        return f"at most {' and '.join(f'{most:,} {what}' for most, what in bounds if most is not None)} per image"

    def decide(self, model: ExaminedModel) -> Finding:
        """Compare the summed costs of all layers with the limits."""
        layers = model.structure.layers
        macs, memory = sum(layer.macs for layer in layers), sum(layer.activation_bytes for layer in layers)
        largest = max(layers, key=lambda layer: layer.macs, default=None)
        return self.finding(
            holds=(self.max_macs is None or macs <= self.max_macs)
            and (self.max_activation_bytes is None or memory <= self.max_activation_bytes),
            observed=f"{macs:,} multiply-accumulates and {memory:,} bytes of activations per image",
            evidence=[f"most multiply-accumulates in {largest.title} {largest.module}: {largest.macs:,}"]
            if largest
            else [],
            hint="use fewer channels in the early, large maps, or pool earlier",
        )


@dataclass(frozen=True, kw_only=True)
class NoBiasBeforeNorm(Requirement):
    """If ``before_norm = false``, no convolution or linear layer has a bias that a directly following batch norm cancels.

    A batch norm subtracts the mean of each channel, which contains every constant that was added to the channel; in
    evaluation, so does the running mean. A bias is an argument of the layer, or a tensor with one number per channel that is
    added to the layer's result. Between layer and batch norm, only copies, reshapes, permutations and other biases are
    allowed. Group, layer and instance norms are ignored, as are batch norms that use running statistics in training.
    """

    name = section = "bias"
    expected = "no bias of a convolution or linear layer that a directly following batch norm cancels"

    before_norm: bool = True

    def decide(self, model: ExaminedModel) -> Finding:
        """Search both programs for biases of which every use is cancelled by a batch norm."""
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
        """Check that changing the cancelled biases does not change the output of a training pass."""
        removed = {bias.tensor.name for bias in _removed_biases(model.captured.graph) if bias.certain}
        if not removed:
            return None
        outputs = []
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            for changed in (False, True):
                # A new module for each pass, since a pass may change buffers.
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
        effect = "does not change the output of a training pass" if same else "changes the output of a training pass"
        return Confirmation(agrees=same, observed=f"adding random numbers to the cancelled biases {effect}")


_SEED = 5_113
# Tolerance relative to the output in double precision: far above rounding errors, far below the effect of a bias.
_ROUNDING = 1e-9


class _RemovedBias(NamedTuple):
    """A bias that a batch norm cancels: the tensor, the layer, and whether the cancellation is certain."""

    tensor: TensorSpec
    layer: str
    certain: bool


# For each tensor and layer: for each use as a bias, whether a batch norm cancels the bias; None if that is undecided.
_Verdicts = dict[str, dict[str, list[bool | None]]]


def _removed_biases(graph: Graph) -> list[_RemovedBias]:
    """For each tensor that is used only as a bias and always, or perhaps, cancelled by a batch norm, one entry per layer."""
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
    """A tensor that is the bias of a layer; ``dim`` is the only dimension of a value along which the bias varies.

    ``dim`` is None if the dimension is unknown.
    """

    tensor: str
    layer: str
    dim: int | None


def _judge_biases(graph: Graph, program: Program, verdicts: _Verdicts) -> None:
    """For each bias in a program, add to ``verdicts`` whether each operation that reads the bias cancels the bias.

    A tensor on which the output depends in another way than as a bias gets False for the layer "".
    """
    operations, output, entangled = _without_in_place(program)
    shapes: dict[str, Shape] = {spec.name: spec.shape for spec in graph.tensors}
    shapes |= {operation.name: operation.shape for operation in operations}
    # For each value, the tensors that the value is computed from in other ways than as biases.
    tensors = {name: {name} for name in verdicts}
    # For each value that is the result of a layer, with or without added biases: the layer, and the biases.
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
    """Whether the operation ``reader`` cancels a bias contained in the value ``value`` that varies along ``dim`` only.

    None if that is undecided.
    """
    bound = bind(reader)
    by_batch = not training or bound.get("training") is True
    if reader.kind.name != "batch_norm" or bound.get("input") != Ref(value) or not by_batch:
        return False
    return None if dim is None else dim == 1


def _added_bias(operation: Operation, shapes: Mapping[str, Shape], layers: Container[str]) -> tuple[str, int]:
    """The name of the value that an operation adds as a bias to a layer's result, and the dimension the bias varies along.

    The name is empty if the operation adds no bias.
    """
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
    """The operations on which the output depends, the name of the output, and the names of values with shared memory.

    In the returned operations, a reference to a value that was changed in place names the result of the in-place operation.
    Values whose memory has both views and in-place operations are returned last, since their references may be wrong.
    """
    operations = []
    written: dict[str, str] = {}
    # For each value, the first value in the same memory.
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
    """The index that dimension ``dim`` of an operand has in the result of an operation; None if it was split or merged."""
    after = operation.shape
    if dim is None or operation.kind.family not in ("reshape", "permutation"):
        return dim
    if operation.kind.family == "permutation":
        # Permuting a meta tensor whose sizes are the indices of its dimensions shows the new order.
        permute = getattr(torch, operation.kind.name)
        numbered = torch.empty(tuple(range(len(before))), device="meta")
        return list(permute(numbered, *operation.args[1:], **operation.kwargs).shape).index(dim)
    if dim > 0 and len(after) == 2 and after[0] == before[0]:  # noqa: PLR2004 - one row for each image
        return 1  # each column belongs to one channel only
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
