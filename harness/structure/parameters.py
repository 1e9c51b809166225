"""What a model holds: parameters, hidden state, statistics, and modules that are declared and never called."""

from __future__ import annotations

from dataclasses import dataclass

from harness.graph.form import DeclaredModule, Graph, Ref, TensorSpec, bind

_RUNNING_STATISTICS = ("running_mean", "running_var")


@dataclass(frozen=True, kw_only=True)
class ParameterCount:
    """What the model holds, in elements; a shared tensor counts once.

    Args:
        total: all parameters, called or not.
        trainable: those that require a gradient.
        unreached: parameters that no operation reads, by name.
        hidden: state that is neither parameter nor normalisation statistic, and that the programs read.
        statistics: elements of normalisation statistics.
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


def count_parameters(graph: Graph, read: set[str]) -> ParameterCount:
    """Count parameters, and the state that a parameter count does not see.

    Args:
        graph: the captured model.
        read: names of the tensors that either program reads.
    """
    statistics = _statistics(graph)
    parameters = [spec for spec in graph.tensors if spec.kind == "parameter"]
    others = [spec for spec in graph.tensors if spec.kind != "parameter"]
    return ParameterCount(
        total=sum(spec.elements for spec in parameters),
        trainable=sum(spec.elements for spec in parameters if spec.requires_grad),
        unreached=tuple(spec for spec in parameters if spec.name not in read),
        hidden=tuple(spec for spec in others if spec.name in read and spec.name not in statistics),
        statistics=sum(spec.elements for spec in others if spec.name in statistics),
    )


def never_called(graph: Graph, read: set[str]) -> tuple[DeclaredModule, ...]:
    """Declared modules without children that neither program runs and whose tensors none reads.

    Args:
        graph: the captured model.
        read: names of the tensors that either program reads.
    """
    paths = {operation.module for program in (graph.train, graph.evaluate) for operation in program.operations}
    running = {path[:end] for path in paths for end in _prefix_ends(path)}
    owners = {
        name.rpartition(".")[0] for spec in graph.tensors if spec.name in read for name in (spec.name, *spec.aliases)
    }
    parents = {module.path.rpartition(".")[0] for module in graph.modules}
    return tuple(
        module
        for module in graph.modules
        if module.path and module.path not in running | owners | parents and module.type != "Identity"
    )


def _prefix_ends(path: str) -> list[int]:
    return [i for i, character in enumerate(path) if character == "."] + [len(path)]


def _statistics(graph: Graph) -> set[str]:
    """Names of running statistics and of the counters beside them."""
    statistics = {
        argument.name
        for program in (graph.train, graph.evaluate)
        for operation in program.operations
        if operation.kind.name in ("batch_norm", "instance_norm")
        for key, argument in bind(operation).items()
        if key in _RUNNING_STATISTICS and isinstance(argument, Ref)
    }
    owners = {name.rpartition(".")[0] for name in statistics}
    return statistics | {
        spec.name
        for spec in graph.tensors
        if spec.kind == "buffer"
        and spec.shape == ()
        and spec.name.rpartition(".")[0] in owners
        and spec.name.endswith("num_batches_tracked")
    }
