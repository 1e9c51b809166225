"""The architecture of a graph: the model's state, and the operations that run in each mode.

The analysis uses only operations that run. A registered module that forward never calls does not count; an operation counts
whether a module, a function or a method runs it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, TypeVar

import torch

from harness.graph.form import DeclaredModule, Graph, Operation, Program, Ref, TensorSpec, bind
from harness.structure.averages import AverageSearch, search_average
from harness.structure.dataflow import DataFlow
from harness.structure.field_trace import trace_fields
from harness.structure.fields import FieldMap
from harness.structure.head import Head, describe_head
from harness.structure.interventions import Interventions
from harness.structure.layers import Layer, by_x, dropout_probability, elements_per_image, list_layers
from harness.structure.masks import Draw, find_draws
from harness.structure.pooling import GlobalPool, find_global_pools, other_averages
from harness.structure.receptive_field import ReceptiveField, field_of


@dataclass(frozen=True, kw_only=True)
class ParameterCount:
    """The number of elements of a model's parameters and other tensors; a shared tensor counts once.

    ``total`` and ``trainable`` include parameters that no operation reads, which ``unreached`` lists. ``hidden`` are
    buffers and constants that operations read, except running statistics of normalisations; ``statistics`` is the number
    of elements of these running statistics.
    """

    total: int
    trainable: int
    unreached: tuple[TensorSpec, ...]
    hidden: tuple[TensorSpec, ...]
    statistics: int

    @property
    def hidden_elements(self) -> int:
        """Number of elements of the buffers and constants in ``hidden``."""
        return sum(spec.elements for spec in self.hidden)

    @property
    def unreached_elements(self) -> int:
        """Number of elements of parameters that no operation reads."""
        return sum(spec.elements for spec in self.unreached)


@dataclass(frozen=True, kw_only=True)
class DropoutSite:
    """One dropout: the submodule, the drop probability in each mode, and the modes in which the dropout is active.

    ``elements`` is the number of elements per image that may be set to zero. For a hand-written dropout, ``drawn_by``
    names the operations that draw the random mask, and the probabilities are measured.
    """

    module: str
    p: float
    p_in_evaluation: float
    elements: int
    active_in_training: bool
    active_in_evaluation: bool
    drawn_by: tuple[str, ...] = ()

    @property
    def live(self) -> bool:
        """Whether the dropout sets values to zero in training and none in evaluation."""
        return self.active_in_training and not self.active_in_evaluation and self.p > 0


@dataclass(frozen=True, kw_only=True)
class BatchNormSite:
    """One batch norm: the modes in which batch statistics are used, and whether training updates the running statistics.

    ``statistics_move`` is true if training updates the statistics that the batch norm uses in evaluation.
    """

    module: str
    batch_statistics_in_training: bool
    batch_statistics_in_evaluation: bool
    statistics_move: bool

    @property
    def ordinary(self) -> bool:
        """Whether the batch norm uses batch statistics in training and updated running statistics in evaluation."""
        return self.batch_statistics_in_training and not self.batch_statistics_in_evaluation and self.statistics_move

    @property
    def stuck(self) -> bool:
        """Whether the batch norm uses batch statistics in training, but never updated statistics in evaluation."""
        by_batch = self.batch_statistics_in_training and not self.batch_statistics_in_evaluation
        return by_batch and not self.statistics_move


@dataclass(frozen=True, kw_only=True)
class LinearSite:
    """A fully connected layer, or a convolution whose kernel covers the whole input map; ``detail`` gives the sizes."""

    module: str
    kind: Literal["linear", "convolution over the whole map"]
    detail: str


class Structure:
    """The architecture of one graph; each property is computed when first accessed.

    ``state`` maps the names of the graph's tensors to their values. If given, the model is also run, to find properties that
    the names of operations do not show, such as a hand-written dropout.
    """

    def __init__(self, graph: Graph, state: Mapping[str, torch.Tensor] | None = None) -> None:
        self.graph = graph
        self._state = state
        self._train = DataFlow(graph, graph.train)
        self._evaluate = DataFlow(graph, graph.evaluate)
        self._read = self._train.read | self._evaluate.read
        self._operations = (*graph.train.operations, *graph.evaluate.operations)

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """The operations of the training program that depend on the images, in order, without operations on sizes."""
        return list_layers(self._train)

    @cached_property
    def parameters(self) -> ParameterCount:
        """The number of elements of the parameters, and of the buffers and constants."""
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
        """Registered modules that neither program calls and whose tensors neither program reads.

        Modules with submodules and modules of type ``Identity`` are left out.
        """
        paths = {operation.module for operation in self._operations}
        used = {path[:end] for path in paths for end in (*(i for i, c in enumerate(path) if c == "."), len(path))}
        used |= {_owner(name) for spec in self.graph.tensors if spec.name in self._read for name in spec.names}
        used |= {"", *(_owner(module.path) for module in self.graph.modules)}
        return tuple(module for module in self.graph.modules if module.path not in used and module.type != "Identity")

    @cached_property
    def dropouts(self) -> tuple[DropoutSite, ...]:
        """The dropouts on which the output depends.

        First the dropout operations in the order of the training program, then those that only evaluation has, then
        hand-written dropouts in the same order.
        """
        by_name = [[_drop_of(op) for op in flow.on_path if _drops(op)] for flow in self._flows]
        by_hand = [[_drop_by(draw, draw.p) for draw in draws if draw.p is not None] for draws in self._draws]
        sites = []
        for train, evaluate in (by_name, by_hand):
            pairs, unpaired = _paired(train, evaluate)
            off = [(replace(drop, active=False), drop) for drop in unpaired if drop.active]
            for drop, other in (*pairs, *off):
                p_in_evaluation = other.p if other is not None and other.active else 0.0
                sites.append(
                    DropoutSite(
                        module=drop.module,
                        p=drop.p,
                        p_in_evaluation=p_in_evaluation,
                        elements=drop.elements,
                        active_in_training=drop.active,
                        active_in_evaluation=p_in_evaluation > 0,
                        drawn_by=drop.drawn_by,
                    )
                )
        return tuple(sites)

    @property
    def unknown_draws(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Names of operations that draw random numbers for other uses than dropout, in training and in evaluation.

        Only random numbers that are combined with values computed from the images count.
        """
        train, evaluate = (
            tuple(dict.fromkeys(name for draw in draws if draw.p is None for name in draw.drawn_by))
            for draws in self._draws
        )
        return train, evaluate

    @cached_property
    def _draws(self) -> tuple[tuple[Draw, ...], tuple[Draw, ...]]:
        """Operations that combine random numbers with values computed from images, in training and in evaluation."""
        return (
            find_draws(self._train, self.train_field_maps, self._drawing(self.graph.train), training=True),
            find_draws(self._evaluate, self.field_maps, self._drawing(self.graph.evaluate), training=False),
        )

    def _drawing(self, program: Program) -> Interventions | None:
        """The model on which to measure dropout; None if ``program`` draws no random numbers or no weights are given."""
        return self._experiments if self.random_operations(program) else None

    @staticmethod
    def random_operations(program: Program) -> tuple[str, ...]:
        """Names of the operations of a program, other than dropouts, that draw random numbers."""
        return tuple(
            operation.name
            for operation in program.operations
            if operation.kind.draws
            and not _drops(operation)
            and bind(operation).get("dropout_p") != 0
            and bind(operation).get("training") is not False
        )

    @cached_property
    def changed_in_evaluation(self) -> tuple[str, ...]:
        """Names of parameters, buffers and constants that evaluation modifies in place."""
        return tuple(sorted(self.graph.evaluate.written(name for spec in self.graph.tensors for name in spec.names)))

    @cached_property
    def batch_norms(self) -> tuple[BatchNormSite, ...]:
        """The batch norms on which the output depends, in the order of the training program."""
        pairs, _ = _paired(*([op for op in flow.on_path if op.kind.name == "batch_norm"] for flow in self._flows))
        doubtful = {other.name: next(other.refs()) for norm, other in pairs if other and not self._moves(norm, other)}
        moved = self._experiments.changed_by_training(doubtful) if doubtful and self._experiments is not None else set()
        return tuple(
            BatchNormSite(
                module=operation.module,
                batch_statistics_in_training=_active(operation),
                batch_statistics_in_evaluation=_active(other),
                statistics_move=other is not None and (other.name not in doubtful or other.name in moved),
            )
            for operation, other in pairs
        )

    def _moves(self, norm: Operation, other: Operation) -> bool:
        """Whether the training program's batch norm ``norm`` updates the statistics that ``other`` uses in evaluation.

        False if the operations alone do not show this.
        """
        train, evaluate = bind(norm), bind(other)
        buffers = {train.get("running_mean"), train.get("running_var")}
        written = {next(op.refs(), "") for op in self._operations if op.kind.in_place}
        return (
            _active(norm)
            and buffers == {evaluate.get("running_mean"), evaluate.get("running_var")}
            and all(isinstance(ref, Ref) and self.graph.tensor(ref.name) and ref.name not in written for ref in buffers)
            and train.get("momentum") not in (None, 0)
        )

    @cached_property
    def fully_connected(self) -> tuple[LinearSite, ...]:
        """Fully connected layers, and convolutions whose kernel covers the whole input map, on which the output depends."""
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
        """The receptive field of each value of the evaluation program, by name."""
        return trace_fields(self.graph, self.graph.evaluate)

    @cached_property
    def train_field_maps(self) -> Mapping[str, FieldMap]:
        """The receptive field of each value of the training program, by name."""
        return trace_fields(self.graph, self.graph.train)

    @cached_property
    def global_pools(self) -> tuple[GlobalPool, ...]:
        """The global average poolings on which the output depends; poolings on every path to the output come first."""
        found = find_global_pools(self._evaluate, self.field_maps)
        feeding = [pool for pool in reversed(found) if pool.feeds_head]
        if not feeding and self.average_search.pool is not None:
            feeding = [self.average_search.pool]
        return (*feeding, *(pool for pool in found if not pool.feeds_head))

    @property
    def head_pool(self) -> GlobalPool | None:
        """The last global average pooling that every path to the output passes through; None if there is none."""
        return next((pool for pool in self.global_pools if pool.feeds_head), None)

    @cached_property
    def other_averages(self) -> tuple[str, ...]:
        """For each average or average pooling before the output that is not global, a sentence that says why."""
        return other_averages(self._evaluate, self.field_maps)

    @cached_property
    def average_search(self) -> AverageSearch:
        """The result of searching by experiment for a global average on every path; empty if no weights are given."""
        if self._experiments is None:
            return AverageSearch()
        return search_average(self._evaluate, self.field_maps, self._experiments)

    @cached_property
    def _experiments(self) -> Interventions | None:
        return None if self._state is None else Interventions(self.graph, self._state)

    @cached_property
    def field_before_head(self) -> tuple[str, ReceptiveField]:
        """The name and the receptive field of the feature map that the head's global pooling averages.

        Without such a pooling, the name and the field of the last value that has rows and columns.
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
        """The kind of the model's output, and the operations after the last layer with weights."""
        return describe_head(self._train, self._evaluate)

    @property
    def _flows(self) -> tuple[DataFlow, DataFlow]:
        return self._train, self._evaluate

    def _statistics(self) -> set[str]:
        """Names of the running statistics of normalisations and of the buffers that count batches."""
        norms = [bind(op) for op in self._operations if op.kind.name in ("batch_norm", "instance_norm")]
        arguments = [norm.get(key) for norm in norms for key in ("running_mean", "running_var")]
        statistics = {argument.name for argument in arguments if isinstance(argument, Ref)}
        owners = {_owner(name) for name in statistics}
        scalars = {spec.name for spec in self.graph.tensors if spec.kind == "buffer" and spec.shape == ()}
        counters = {f"{owner}.num_batches_tracked".lstrip(".") for owner in owners} & scalars
        return statistics | counters


def _owner(path: str) -> str:
    """The path of the module in which the tensor or module at ``path`` is registered."""
    return path.rpartition(".")[0]


@dataclass(frozen=True, kw_only=True)
class _Drop:
    """One dropout in one mode."""

    module: str
    p: float
    elements: int
    active: bool
    drawn_by: tuple[str, ...] = ()


def _drops(operation: Operation) -> bool:
    """Whether an operation is a dropout, or an attention with dropout."""
    return operation.kind.family == "dropout" or bool(bind(operation).get("dropout_p"))


def _drop_of(operation: Operation) -> _Drop:
    return _Drop(
        module=operation.module,
        p=dropout_probability(bind(operation)),
        elements=elements_per_image(operation.shape),
        active=operation.kind.family != "dropout" or _active(operation),
    )


def _drop_by(draw: Draw, p: float) -> _Drop:
    return _Drop(module=draw.operation.module, p=p, elements=draw.elements, active=True, drawn_by=draw.drawn_by)


_Placed = TypeVar("_Placed", Operation, _Drop)


def _paired(
    train: list[_Placed], evaluate: list[_Placed]
) -> tuple[list[tuple[_Placed, _Placed | None]], list[_Placed]]:
    """Pair the n-th operation of each submodule in training with the n-th in evaluation, or with None.

    Also return the operations of evaluation that were not paired.
    """
    remaining = list(evaluate)
    pairs: list[tuple[_Placed, _Placed | None]] = []
    for operation in train:
        other = next((candidate for candidate in remaining if candidate.module == operation.module), None)
        remaining = [candidate for candidate in remaining if candidate is not other]
        pairs.append((operation, other))
    return pairs, remaining


def _active(operation: Operation | None) -> bool:
    """Whether a dropout drops values or a batch norm uses batch statistics; False for None."""
    arguments = {} if operation is None else bind(operation)
    return arguments.get("train", arguments.get("training")) is True
