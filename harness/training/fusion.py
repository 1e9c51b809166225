"""A training program rewritten to run faster on a CPU: the same arithmetic in fewer passes over memory.

Batch norm, ReLU and dropout that follow one another become a batch norm whose weights have dropout's factor in them and
one pass for the rest, in place. The rewriting looks at the graph only; `harness.training.engines` tries on every model
that the result computes what the graph says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from harness.graph import Operation, Program
from harness.graph.form import Argument, Ref
from harness.training.dropout import sparse_dropout, sparse_relu_dropout

# With more to drop, a number for each value is as cheap.
_SPARSE_BELOW = 0.25
_RELU = ("aten.relu.default", "aten.relu_.default")
_DROPOUT = ("aten.dropout.default", "aten.dropout_.default")
_BATCH_NORM = "aten.batch_norm.default"
# What these give is theirs alone: their backward passes don't read it, so the next operation may write into it.
_GIVE_AWAY = (_BATCH_NORM, "aten.conv2d.default")


def _scaled_batch_norm(p: float, maps: Tensor, weight: Tensor, bias: Tensor, *rest: Any) -> Tensor:  # noqa: ANN401
    """Batch norm with the factor of a later dropout: a ReLU between them only takes what is above 0, so it can wait."""
    factor = 1 / (1 - p)
    result: Tensor = torch.ops.aten.batch_norm.default(maps, weight * factor, bias * factor, *rest)
    return result


def _dropout(maps: Tensor, p: float, in_place: bool, scaled: bool) -> Tensor:  # noqa: FBT001 - as in the program
    return sparse_dropout(maps, p, 1.0 if scaled else 1 / (1 - p), in_place=in_place)


def _relu_dropout(maps: Tensor, p: float, in_place: bool, scaled: bool) -> Tensor:  # noqa: FBT001
    return sparse_relu_dropout(maps, p, 1.0 if scaled else 1 / (1 - p), in_place=in_place)


FUSED_OPERATIONS: dict[str, Callable[..., Any]] = {
    "fused.batch_norm": _scaled_batch_norm,
    "fused.dropout": _dropout,
    "fused.relu_dropout": _relu_dropout,
}


def fused(program: Program) -> Program:
    """The program with dropout, and what comes before it, rewritten to `FUSED_OPERATIONS`."""
    by_name = {operation.name: operation for operation in program.operations}
    uses = Counter(name for operation in program.operations for name in operation.refs())
    uses[program.output] += 1
    rewritten: dict[str, Operation | None] = {}

    def only_used_by(user: Operation) -> Operation | None:
        """What made a value that nobody else reads."""
        match user.args[:1]:
            case (Ref(name),) if uses[name] == 1:
                return by_name.get(name)
        return None

    for operation in program.operations:
        before = only_used_by(operation)
        given_away = before is not None and before.op in _GIVE_AWAY
        if operation.op == "aten.view.default":
            # Where values lie in memory is another matter now.
            rewritten[operation.name] = replace(operation, op="aten.reshape.default")
        elif operation.op == "aten.relu.default" and given_away:
            rewritten[operation.name] = replace(operation, op="aten.relu_.default")
        elif _is_sparse(operation):
            relu = before if before and before.op in _RELU else None
            source = only_used_by(relu) if relu else before
            scaled = source is not None and _is_affine_batch_norm(source)
            in_place = source is not None and source.op in _GIVE_AWAY
            p = operation.args[1]
            if relu:
                rewritten[relu.name] = None
            if source and scaled:
                rewritten[source.name] = replace(source, op="fused.batch_norm", args=(p, *source.args))
            rewritten[operation.name] = replace(
                operation,
                op="fused.relu_dropout" if relu else "fused.dropout",
                args=(relu.args[0] if relu else operation.args[0], p, in_place, scaled),
            )
    operations = (rewritten.get(operation.name, operation) for operation in program.operations)
    return replace(program, operations=tuple(operation for operation in operations if operation))


def without_dropout(program: Program) -> Program:
    """The program, fused or not, with every dropout's p set to 0: nothing that it draws depends on how it draws."""
    return replace(program, operations=tuple(_with_p(operation, 0.0) for operation in program.operations))


def _with_p(operation: Operation, p: float) -> Operation:
    if "dropout" in operation.op:
        return replace(operation, args=(operation.args[0], p, *operation.args[2:]))
    if operation.op == "fused.batch_norm":
        return replace(operation, args=(p, *operation.args[1:]))
    return operation


def _is_sparse(operation: Operation) -> bool:
    match operation:
        case Operation(op=op, args=(Ref(), float(p), True)) if op in _DROPOUT:
            return 0 < p < _SPARSE_BELOW
    return False


def _is_affine_batch_norm(operation: Operation) -> bool:
    weights: tuple[Argument, ...] = operation.args[1:3]
    return operation.op == _BATCH_NORM and all(isinstance(weight, Ref) for weight in weights)
