"""Rewriting a training program to run faster on a CPU: the same computation with fewer passes over memory.

A batch norm, a ReLU and a dropout in sequence become a batch norm whose weights include the scale of the dropout, and
one operation for ReLU and dropout that works in place. The rewriting depends on the graph only;
`harness.training.verification` compares the results with those of the original program on every model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor

from harness.graph import Operation, Program
from harness.graph.form import Ref
from harness.training.batch_norm import batch_norm
from harness.training.dropout import sparse_dropout, sparse_relu_dropout

# From this drop probability on, the usual dropout, which draws one number per value, is as fast as sparse dropout.
_SPARSE_BELOW = 0.25
_BATCH_NORM = "aten.batch_norm.default"
# Operations whose backward pass does not read their result, so that the next operation may overwrite the result.
_OVERWRITABLE = (_BATCH_NORM, "aten.conv2d.default")


def _scaled_batch_norm(p: float, maps: Tensor, weight: Tensor, bias: Tensor, *rest: Any) -> Tensor:  # noqa: ANN401
    """Compute batch norm, multiplied by 1 / (1 - p), the scale of the dropout that follows.

    The scale is positive: applied before a ReLU, it gives the same result as applied after the ReLU.
    """
    factor = 1 / (1 - p)
    return batch_norm(maps, weight * factor, bias * factor, *rest)


FUSED_OPERATIONS: dict[str, Callable[..., Any]] = {
    _BATCH_NORM: batch_norm,
    "fused.batch_norm": _scaled_batch_norm,
    "fused.dropout": sparse_dropout,
    "fused.relu_dropout": sparse_relu_dropout,
}


def fused(program: Program) -> Program:
    """Replace each dropout with a small p, and the batch norm and ReLU directly before it, by `FUSED_OPERATIONS`.

    Also replace each view by a reshape, and each ReLU by an in-place ReLU if the input may be overwritten.
    """
    by_name = {operation.name: operation for operation in program.operations}
    uses = Counter(name for operation in program.operations for name in operation.refs())
    uses[program.output] += 1
    rewritten: dict[str, Operation | None] = {}

    def sole_input(user: Operation) -> Operation | None:
        """Return the operation that computes the first argument of ``user`` if only ``user`` reads the result, else None."""
        match user.args[:1]:
            case (Ref(name),) if uses[name] == 1:
                return by_name.get(name)
        return None

    for operation in program.operations:
        before = sole_input(operation)
        if operation.op == "aten.view.default":
            # In a memory layout other than the captured one, the view may be impossible.
            rewritten[operation.name] = replace(operation, op="aten.reshape.default")
        elif operation.op == "aten.relu.default" and _is_overwritable(before):
            rewritten[operation.name] = replace(operation, op="aten.relu_.default")
        elif p := _sparse_probability(operation):
            relu = before if before and before.kind.name == "relu" else None
            source = sole_input(relu) if relu else before
            scaled = source is not None and _is_affine_batch_norm(source)
            if relu:
                rewritten[relu.name] = None
            if source and scaled:
                rewritten[source.name] = replace(source, op="fused.batch_norm", args=(p, *source.args))
            rewritten[operation.name] = replace(
                operation,
                op="fused.relu_dropout" if relu else "fused.dropout",
                args=((relu or operation).args[0], p, 1.0 if scaled else 1 / (1 - p)),
                kwargs={"in_place": _is_overwritable(source)},
            )
    operations = (rewritten.get(operation.name, operation) for operation in program.operations)
    return replace(program, operations=tuple(operation for operation in operations if operation))


def _is_overwritable(source: Operation | None) -> bool:
    return source is not None and source.op in _OVERWRITABLE


def _sparse_probability(operation: Operation) -> float:
    """Return the drop probability of a dropout to be replaced by sparse dropout; 0 for any other operation."""
    match operation.args:
        case (Ref(), float(p), True) if operation.kind.name == "dropout" and 0 < p < _SPARSE_BELOW:
            return p
    return 0.0


def _is_affine_batch_norm(operation: Operation) -> bool:
    return operation.op == _BATCH_NORM and all(isinstance(weight, Ref) for weight in operation.args[1:3])
