"""The end of a model: the kind of its output, and the operations after the last layer with weights."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from harness.graph.form import Operation, Shape, bind
from harness.structure.dataflow import DataFlow, changes_nothing, numbers_read
from harness.structure.layers import operation_title

OutputKind = Literal[
    "changed log-probabilities",
    "changed probabilities",
    "log-probabilities",
    "logits",
    "probabilities",
    "softmax over another dimension than the classes",
]


@dataclass(frozen=True, kw_only=True)
class Head:
    """The output of a model, and the operations after the last layer with weights.

    Args:
        kind: the kind of the output, such as logits.
        classes: number of columns of the output; None if the output is not a matrix or the number depends on the batch.
        shape: shape of the output.
        is_floating: whether the output has a floating-point dtype.
        last_weighted: title and module of the last layer with weights.
        after: titles of the activations, normalisations and dropouts after the last layer with weights.
        changes: titles of operations that change the result of the last softmax.
    """

    kind: OutputKind
    classes: int | None
    shape: Shape
    is_floating: bool
    last_weighted: str
    after: tuple[str, ...]
    changes: tuple[str, ...] = ()


def describe_head(train: DataFlow, evaluate: DataFlow) -> Head:
    """Describe the output of the evaluation program, and the last operations of the training program."""
    path = evaluate.on_path
    shape: Shape = path[-1].shape if path else evaluate.shapes[evaluate.graph.input_name]
    classes = shape[-1] if len(shape) == 2 and isinstance(shape[-1], int) else None  # noqa: PLR2004 - (batch, classes)
    last, after = _last_weighted(train)
    kind, changes = _output_kind(evaluate, classes)
    return Head(
        kind=kind,
        classes=classes,
        shape=shape,
        is_floating=not path or "float" in path[-1].outputs[0].dtype,
        last_weighted="none" if last is None else f"{operation_title(last)} {last.module}".strip(),
        after=tuple(operation_title(operation) for operation in _changes_of_scores(after)),
        changes=tuple(operation_title(operation) for operation in changes),
    )


def _last_weighted(flow: DataFlow) -> tuple[Operation | None, tuple[Operation, ...]]:
    """The last layer with weights, or None, and the operations between that layer and the output."""
    for index in reversed(range(len(flow.on_path))):
        operation = flow.on_path[index]
        if flow.is_weighted_convolution(operation) or flow.is_weighted_product(operation):
            return operation, flow.on_path[index + 1 :]
    return None, flow.on_path


def _changes_of_scores(operations: tuple[Operation, ...]) -> Iterable[Operation]:
    """Those operations that are activations, gatings, dropouts, normalisations or softmaxes, except the last softmax."""
    softmaxes = [operation for operation in operations if operation.kind.family in ("softmax", "log-softmax")]
    changing = ("activation", "dropout", "gating", "normalisation")
    return [operation for operation in operations if operation.kind.family in changing or operation in softmaxes[:-1]]


def _output_kind(flow: DataFlow, classes: int | None) -> tuple[OutputKind, tuple[Operation, ...]]:
    """The kind of output, and the operations that change the result of the last softmax, in order.

    The output counts as logits if a layer with weights follows the last softmax, or if a path from the images to the output
    bypasses every softmax.
    """
    path, after = flow.on_path, _last_weighted(flow)[1]
    softmaxes = [operation for operation in after if operation.kind.family in ("softmax", "log-softmax")]
    if not softmaxes or not flow.only_through(*(operation.name for operation in softmaxes)):
        return ("probabilities" if _ends_in_sigmoid(flow) else "logits"), ()
    softmax = softmaxes[-1]
    is_logarithm = softmax.kind.family == "log-softmax"
    changes = tuple(step for step in path[path.index(softmax) + 1 :] if not _keeps(step, flow, logarithm=is_logarithm))
    match [step.kind.name for step in changes]:
        case []:
            pass
        case ["log"] if not is_logarithm:
            is_logarithm, changes = True, ()
        case ["exp"] if is_logarithm:
            is_logarithm, changes = False, ()
        case _:
            return ("changed log-probabilities" if is_logarithm else "changed probabilities"), changes
    dim = bind(softmax).get("dim")
    if classes is not None and isinstance(dim, int) and softmax.shape[dim] != classes:
        return "softmax over another dimension than the classes", ()
    return ("log-probabilities" if is_logarithm else "probabilities"), ()


def _ends_in_sigmoid(flow: DataFlow) -> bool:
    steps = [step for step in flow.on_path if not _keeps(step, flow, logarithm=False)]
    return bool(steps) and steps[-1].kind.name == "sigmoid"


def _keeps(operation: Operation, flow: DataFlow, *, logarithm: bool) -> bool:
    """Whether an operation leaves probabilities, or log-probabilities if ``logarithm``, unchanged except in shape."""
    sources = [ref for ref in numbers_read(operation) if ref in flow.from_input]
    if len(sources) != 1:
        return False
    if operation.kind.family in ("reshape", "permutation"):
        return True
    bound = bind(operation)
    if operation.kind.name in ("clamp", "clamp_max", "clamp_min"):
        least, most = (-math.inf, 0) if logarithm else (0, 1)
        low = least if bound.get("min") is None else bound["min"]
        high = most if bound.get("max") is None else bound["max"]
        return isinstance(low, int | float) and low <= least and isinstance(high, int | float) and high >= most
    floating = operation.outputs[0].dtype.startswith(("float", "bfloat"))
    return changes_nothing(operation, flow.shapes[sources[0]], same_dtype=floating)
