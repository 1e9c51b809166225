"""What a graph says about the architecture: what the model holds, and what of it runs, in each mode.

All of it is read off the operations that run. A module that is declared and never called is not in them, whatever its name;
an operation that runs is in them, however it was written.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from harness.graph.form import DeclaredModule, Graph, Operation, Ref, TensorSpec, bind
from harness.structure.dataflow import DataFlow
from harness.structure.field_trace import trace_fields
from harness.structure.fields import FieldMap
from harness.structure.head import Head, describe_head
from harness.structure.layers import Layer, by_x, dropout_probability, elements_per_image, list_layers
from harness.structure.pooling import GlobalPool, find_global_pools
from harness.structure.receptive_field import ReceptiveField, field_of


@dataclass(frozen=True, kw_only=True)
class ParameterCount:
    """What the model holds, in elements; a shared tensor counts once, a parameter whether it is called or not.

    ``unreached`` are parameters that no operation reads; ``hidden`` is state that is neither parameter nor normalisation
    statistic, and that the programs read; ``statistics`` are those of normalisations.
    """

    total: int
    trainable: int
    unreached: tuple[TensorSpec, ...]
    hidden: tuple[TensorSpec, ...]
    statistics: int

    @property
    def hidden_elements(self) -> int:
        """Elements of hidden state."""
        return sum(spec.elements for spec in self.hidden)

    @property
    def unreached_elements(self) -> int:
        """Elements of parameters that no operation reads."""
        return sum(spec.elements for spec in self.unreached)


@dataclass(frozen=True, kw_only=True)
class DropoutSite:
    """One dropout operation: where, with which probability, on how many numbers an image, and when it is active."""

    module: str
    p: float
    elements: int
    active_in_training: bool
    active_in_evaluation: bool

    @property
    def live(self) -> bool:
        """Whether it does what dropout is for: drops something in training and nothing in evaluation."""
        return self.active_in_training and not self.active_in_evaluation and self.p > 0


@dataclass(frozen=True, kw_only=True)
class BatchNormSite:
    """One batch normalisation, and in which modes it takes its statistics from the batch."""

    module: str
    batch_statistics_in_training: bool
    batch_statistics_in_evaluation: bool

    @property
    def ordinary(self) -> bool:
        """Whether it normalises by the batch in training and by its running statistics in evaluation."""
        return self.batch_statistics_in_training and not self.batch_statistics_in_evaluation


@dataclass(frozen=True, kw_only=True)
class LinearSite:
    """A fully connected layer, under its own name or as a convolution whose kernel covers a whole map."""

    module: str
    kind: Literal["linear", "convolution over the whole map"]
    detail: str


class Structure:
    """The architecture of one graph; each part is found when it is first asked for."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._train = DataFlow(graph, graph.train)
        self._evaluate = DataFlow(graph, graph.evaluate)
        self._read = self._train.read | self._evaluate.read
        self._operations = (*graph.train.operations, *graph.evaluate.operations)

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """The operations of the training program in order, those on sizes left out."""
        return list_layers(self._train)

    @cached_property
    def parameters(self) -> ParameterCount:
        """Parameters, and state that a parameter count does not see."""
        statistics = self._statistics()
        parameters = [spec for spec in self.graph.tensors if spec.kind == "parameter"]
        others = [spec for spec in self.graph.tensors if spec.kind != "parameter"]
        return ParameterCount(
            total=sum(spec.elements for spec in parameters),
            trainable=sum(spec.elements for spec in parameters if spec.requires_grad),
            unreached=tuple(spec for spec in parameters if spec.name not in self._read),
            hidden=tuple(spec for spec in others if spec.name in self._read and spec.name not in statistics),
            statistics=sum(spec.elements for spec in others if spec.name in statistics),
        )

    @cached_property
    def never_called(self) -> tuple[DeclaredModule, ...]:
        """Modules without children that are never used: neither program calls them or reads their tensors."""
        paths = {operation.module for operation in self._operations}
        used = {path[:end] for path in paths for end in (*(i for i, c in enumerate(path) if c == "."), len(path))}
        used |= {_owner(name) for spec in self.graph.tensors if spec.name in self._read for name in spec.names}
        used |= {"", *(_owner(module.path) for module in self.graph.modules)}
        return tuple(module for module in self.graph.modules if module.path not in used and module.type != "Identity")

    @cached_property
    def dropouts(self) -> tuple[DropoutSite, ...]:
        """Dropouts on the way to the output, in training order; those active in evaluation only come last."""
        train, evaluate = ([op for op in flow.on_path if op.kind.family == "dropout"] for flow in self._flows)
        pairs, unpaired = _paired(train, evaluate)
        sites = [(operation, _active(operation), _active(other)) for operation, other in pairs]
        sites += [(operation, False, True) for operation in unpaired if _active(operation)]
        return tuple(
            DropoutSite(
                module=operation.module,
                p=dropout_probability(bind(operation)),
                elements=elements_per_image(operation.shape),
                active_in_training=training,
                active_in_evaluation=evaluation,
            )
            for operation, training, evaluation in sites
        )

    @cached_property
    def random_operations(self) -> tuple[str, ...]:
        """Operations other than dropout that draw random numbers in a training pass, by name."""
        return tuple(
            operation.name
            for operation in self.graph.train.operations
            if operation.kind.draws and operation.kind.family != "dropout" and bind(operation).get("dropout_p") != 0
        )

    @cached_property
    def changed_in_evaluation(self) -> tuple[str, ...]:
        """Parameters, buffers and constants that evaluation writes into, by name."""
        return tuple(sorted(self.graph.evaluate.written(name for spec in self.graph.tensors for name in spec.names)))

    @cached_property
    def batch_norms(self) -> tuple[BatchNormSite, ...]:
        """Batch normalisations on the way to the output, in training order."""
        pairs, _ = _paired(*([op for op in flow.on_path if op.kind.name == "batch_norm"] for flow in self._flows))
        return tuple(
            BatchNormSite(
                module=operation.module,
                batch_statistics_in_training=_active(operation),
                batch_statistics_in_evaluation=_active(other),
            )
            for operation, other in pairs
        )

    @cached_property
    def fully_connected(self) -> tuple[LinearSite, ...]:
        """Fully connected layers on the way to the output, convolutions over a whole map among them."""
        flow, sites = self._evaluate, []
        for operation in flow.on_path:
            if flow.is_weighted_product(operation):
                sites.append(LinearSite(module=operation.module, kind="linear", detail=by_x(operation.shape)))
            elif operation.kind.family == "convolution":
                kernel = tuple(dim for dim in flow.weight_shape(operation)[2:] if isinstance(dim, int))
                source = flow.shapes.get(next(operation.refs()), ())
                if kernel and source[-len(kernel) :] == kernel and math.prod(kernel) > 1:
                    detail = f"{by_x(kernel)} kernel on a {by_x(kernel)} map"
                    sites.append(
                        LinearSite(module=operation.module, kind="convolution over the whole map", detail=detail)
                    )
        return tuple(sites)

    @cached_property
    def field_maps(self) -> Mapping[str, FieldMap]:
        """What every value of the evaluation program sees of the image."""
        return trace_fields(self.graph, self.graph.evaluate)

    @cached_property
    def train_field_maps(self) -> Mapping[str, FieldMap]:
        """What every value of the training program sees of the image."""
        return trace_fields(self.graph, self.graph.train)

    @cached_property
    def global_pools(self) -> tuple[GlobalPool, ...]:
        """Global average poolings on the way to the output, however they are written."""
        return find_global_pools(self._evaluate, self.field_maps)

    @property
    def head_pool(self) -> GlobalPool | None:
        """The global average pooling that feeds the head, if there is one."""
        return next((pool for pool in reversed(self.global_pools) if pool.feeds_head), None)

    @cached_property
    def field_before_head(self) -> tuple[str, ReceptiveField]:
        """The receptive field before the head's pooling, and the name of the value that has it.

        Without a head pooling it is the field of the last value that is still a map of rows and columns.
        """
        names = [operation.name for operation in self._evaluate.on_path if operation.name in self.field_maps]
        maps = [name for name in names if {("H",), ("W",)} <= set(self.field_maps[name].axes)]
        last = maps[-1] if maps else self.graph.input_name
        name = last if self.head_pool is None else self.head_pool.before
        return name, field_of(self.field_maps[name])

    @cached_property
    def field_with_head(self) -> ReceptiveField:
        """The receptive field of the output."""
        return field_of(self.field_maps.get(self.graph.evaluate.output, self.field_maps[self.graph.input_name]))

    @cached_property
    def head(self) -> Head:
        """What the output is, and what stands between it and the last layer with weights."""
        return describe_head(self._train, self._evaluate)

    @property
    def _flows(self) -> tuple[DataFlow, DataFlow]:
        return self._train, self._evaluate

    def _statistics(self) -> set[str]:
        """Names of running statistics and of the counters beside them."""
        norms = [bind(op) for op in self._operations if op.kind.name in ("batch_norm", "instance_norm")]
        arguments = [norm.get(key) for norm in norms for key in ("running_mean", "running_var")]
        statistics = {argument.name for argument in arguments if isinstance(argument, Ref)}
        owners = {_owner(name) for name in statistics}
        scalars = {spec.name for spec in self.graph.tensors if spec.kind == "buffer" and spec.shape == ()}
        counters = {name for name in scalars if name.endswith("num_batches_tracked") and _owner(name) in owners}
        return statistics | counters


def _owner(path: str) -> str:
    """The path of the module that holds a tensor or another module."""
    return path.rpartition(".")[0]


def _paired(
    train: list[Operation], evaluate: list[Operation]
) -> tuple[list[tuple[Operation, Operation | None]], list[Operation]]:
    """The n-th operation of a submodule in training with the n-th in evaluation, and those of evaluation that are left."""
    remaining = list(evaluate)
    pairs = []
    for operation in train:
        other = next((candidate for candidate in remaining if candidate.module == operation.module), None)
        remaining = [candidate for candidate in remaining if candidate is not other]
        pairs.append((operation, other))
    return pairs, remaining


def _active(operation: Operation | None) -> bool:
    """Whether a dropout or a batch normalisation works as it does in training."""
    arguments = {} if operation is None else bind(operation)
    return arguments.get("train", arguments.get("training")) is True
