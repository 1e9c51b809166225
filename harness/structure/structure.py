"""What a graph says about the architecture, each part found by a module of its own.

All of it is read off the operations that run. A module that is declared and never called is not in them, whatever its name;
an operation that runs is in them, however it was written.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

from harness.graph.form import DeclaredModule, Graph
from harness.graph.schema import bind
from harness.structure.dataflow import DataFlow
from harness.structure.field_trace import trace_fields
from harness.structure.fields import FieldMap
from harness.structure.head import Head, describe_head
from harness.structure.layers import Layer, list_layers
from harness.structure.linear import LinearSite, find_linear_layers
from harness.structure.modes import BatchNormSite, DropoutSite, find_batch_norms, find_dropouts
from harness.structure.parameters import ParameterCount, count_parameters, never_called
from harness.structure.pooling import GlobalPool, find_global_pools
from harness.structure.receptive_field import ReceptiveField, field_of


class Structure:
    """The architecture of one graph; each part is found when it is first asked for."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._train = DataFlow(graph, graph.train)
        self._evaluate = DataFlow(graph, graph.evaluate)
        self._read = self._train.read | self._evaluate.read

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """The operations of the training program in order, those on sizes left out."""
        return list_layers(self._train)

    @cached_property
    def parameters(self) -> ParameterCount:
        """Parameters, and state that a parameter count does not see."""
        return count_parameters(self.graph, self._read)

    @cached_property
    def never_called(self) -> tuple[DeclaredModule, ...]:
        """Modules without children that are never used: neither program calls them or reads their tensors."""
        return never_called(self.graph, self._read)

    @cached_property
    def dropouts(self) -> tuple[DropoutSite, ...]:
        """Dropouts on the way to the output, in training order; those active in evaluation only come last."""
        return find_dropouts(self._train, self._evaluate)

    @cached_property
    def random_operations(self) -> tuple[str, ...]:
        """Operations other than dropout that draw random numbers in a training pass, by name."""
        return tuple(
            operation.name
            for operation in self.graph.train.operations
            if operation.kind.draws and operation.kind.family != "dropout" and bind(operation).get("dropout_p") != 0
        )

    @cached_property
    def batch_norms(self) -> tuple[BatchNormSite, ...]:
        """Batch normalisations on the way to the output."""
        return find_batch_norms(self._train, self._evaluate)

    @cached_property
    def fully_connected(self) -> tuple[LinearSite, ...]:
        """Fully connected layers on the way to the output, convolutions over a whole map among them."""
        return find_linear_layers(self._evaluate)

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
        if self.head_pool is not None:
            name = self.head_pool.before
        else:
            maps = [
                operation.name
                for operation in self._evaluate.on_path
                if operation.name in self.field_maps and {("H",), ("W",)} <= set(self.field_maps[operation.name].axes)
            ]
            name = maps[-1] if maps else self.graph.input_name
        return name, field_of(self.field_maps[name])

    @cached_property
    def field_with_head(self) -> ReceptiveField:
        """The receptive field of the output."""
        return field_of(self.field_maps.get(self.graph.evaluate.output, self.field_maps[self.graph.input_name]))

    @cached_property
    def head(self) -> Head:
        """What the output is, and what stands between it and the last layer with weights."""
        return describe_head(self._train, self._evaluate)
