"""The end of a model: what its output is, and what stands between it and the last layer with weights."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from harness.graph.form import Operation, Shape, bind
from harness.structure.dataflow import DataFlow
from harness.structure.layers import operation_title

OutputKind = Literal["log-probabilities", "logits", "probabilities", "softmax over another dimension than the classes"]


@dataclass(frozen=True, kw_only=True)
class Head:
    """The end of the model.

    Args:
        kind: what the output is.
        classes: how many columns it has; None when that depends on the batch.
        shape: the output's shape.
        is_floating: whether it holds floating-point numbers.
        last_weighted: title and module of the last layer with weights.
        after: activations, normalisations and dropouts after it, by title.
    """

    kind: OutputKind
    classes: int | None
    shape: Shape
    is_floating: bool
    last_weighted: str
    after: tuple[str, ...]


def describe_head(train: DataFlow, evaluate: DataFlow) -> Head:
    """The end of a model: its output as evaluation computes it, and what training runs before it."""
    path = evaluate.on_path
    shape: Shape = path[-1].shape if path else evaluate.shapes[evaluate.graph.input_name]
    classes = shape[-1] if len(shape) == 2 and isinstance(shape[-1], int) else None  # noqa: PLR2004 - (batch, classes)
    last, after = _last_weighted(train)
    return Head(
        kind=_output_kind(path, classes),
        classes=classes,
        shape=shape,
        is_floating=not path or "float" in path[-1].outputs[0].dtype,
        last_weighted="none" if last is None else f"{operation_title(last)} {last.module}".strip(),
        after=tuple(operation_title(operation) for operation in _changes_of_scores(after)),
    )


def _last_weighted(flow: DataFlow) -> tuple[Operation | None, tuple[Operation, ...]]:
    """The last layer with weights, and what follows it on the way to the output."""
    for index in reversed(range(len(flow.on_path))):
        operation = flow.on_path[index]
        if flow.is_weighted_convolution(operation) or flow.is_weighted_product(operation):
            return operation, flow.on_path[index + 1 :]
    return None, flow.on_path


def _changes_of_scores(operations: tuple[Operation, ...]) -> Iterable[Operation]:
    """What changes the scores on the way to the output; the softmax that gives the output is no such change."""
    softmaxes = [operation for operation in operations if operation.kind.family in ("softmax", "log-softmax")]
    changing = ("activation", "dropout", "gating", "normalisation")
    return [operation for operation in operations if operation.kind.family in changing or operation in softmaxes[:-1]]


def _output_kind(path: tuple[Operation, ...], classes: int | None) -> OutputKind:
    after = ""
    for operation in reversed(path):
        match operation.kind.family, operation.kind.name:
            case _, "log" | "exp" as name if not after:
                after = name
            case "copy" | "reshape", _:
                continue
            case "softmax" | "log-softmax", _:
                return _softmax_kind(operation, after, classes)
            case _, "sigmoid" if not after:
                return "probabilities"
            case _:
                break
    return "logits"


def _softmax_kind(operation: Operation, after: str, classes: int | None) -> OutputKind:
    """What a softmax gives when nothing but a logarithm or an exponential follows it."""
    dim = bind(operation).get("dim")
    if classes is not None and isinstance(dim, int) and operation.shape[dim] != classes:
        return "softmax over another dimension than the classes"
    is_logarithm = operation.kind.family == "log-softmax"
    match after:
        case "":
            return "log-probabilities" if is_logarithm else "probabilities"
        case "log" if not is_logarithm:
            return "log-probabilities"
        case "exp" if is_logarithm:
            return "probabilities"
        case _:
            return "logits"
