"""What operations read that mix whole dimensions: reductions, matrix products, softmaxes, normalisations."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from harness.graph.form import Operation, Ref
from harness.structure.fields import AxisField, FieldMap
from harness.structure.traced_values import Arguments, Rule, TracedValues, UnknownReadsError, normalised_dims

# How the reductions that may be part of a pooling combine what they read.
_HOW = {"amax": "maximum", "max": "maximum", "mean": "average", "sum": "sum"}


def reduced(values: TracedValues, operation: Operation, arguments: Arguments) -> FieldMap:
    """A reduction such as a mean over some dimensions."""
    field_map = values.map_of(arguments.get("self"))
    count = len(field_map.axes)
    dims = normalised_dims(arguments.get("dim"), count)
    how = _HOW.get(operation.kind.name, "other")
    whole = field_map
    for dim in dims:
        whole = whole.map_axes_of(dim, lambda field: field.whole(how=how))
    keep = arguments.get("keepdim") is True
    axes = tuple(() if dim in dims else field_map.axes[dim] for dim in range(count) if keep or dim not in dims)
    over_channels = any("C" in field_map.axes[dim] for dim in dims)
    return values.keep_parts(operation, replace(whole, axes=axes, mixed=field_map.mixed and not over_channels))


def _matrix_product(values: TracedValues, _operation: Operation, arguments: Arguments) -> FieldMap:
    """The last dimension of the operand that depends on the image is multiplied by a matrix of weights: all of it is seen."""
    first = next((arguments[key] for key in ("input", "mat1", "self") if isinstance(arguments.get(key), Ref)), None)
    second = [arguments.get(key) for key in ("other", "mat2", "weight", "vec2")]
    if any(isinstance(operand, Ref) and operand.name in values.maps for operand in second):
        reason = "both operands of the product depend on the images"
        raise UnknownReadsError(reason)
    field_map = values.map_of(first)
    last = field_map.axes[-1]
    whole = field_map.map_axes_of(-1, lambda field: field.whole(how="linear"))
    return replace(whole, axes=(*field_map.axes[:-1], ("C",)), mixed=field_map.mixed and "C" not in last)


def _softmax(values: TracedValues, _operation: Operation, arguments: Arguments) -> FieldMap:
    field_map = values.map_of(arguments["self"])
    return _whole_over(field_map, normalised_dims(arguments["dim"], len(field_map.axes)))


def _batch_norm(values: TracedValues, operation: Operation, arguments: Arguments) -> FieldMap:
    """Statistics of the batch do not count in training; where evaluation takes them, each position sees the whole map."""
    if values.evaluates and arguments.get("training") is True:
        return _normalised(values, operation, arguments)
    return values.map_of(arguments["input"])


def _normalised(values: TracedValues, operation: Operation, arguments: Arguments) -> FieldMap:
    """Statistics taken over the map: every position sees all of it."""
    field_map = values.map_of(arguments["input"])
    if operation.kind.name == "instance_norm" and arguments.get("use_input_stats") is False:
        return field_map
    count = len(field_map.axes)
    shape = arguments.get("normalized_shape")
    return _whole_over(field_map, range(count - len(shape), count) if isinstance(shape, tuple) else range(count))


def _whole_over(field_map: FieldMap, dims: Iterable[int]) -> FieldMap:
    """Every position along some dimensions sees what all see together."""
    for dim in dims:
        field_map = field_map.map_axes_of(dim, AxisField.whole_everywhere)
    return field_map


MIXING_RULES: dict[str, Rule] = {
    "addmm": _matrix_product,
    "batch_norm": _batch_norm,
    "group_norm": _normalised,
    "instance_norm": _normalised,
    "layer_norm": _normalised,
    "linear": _matrix_product,
    "log_softmax": _softmax,
    "matmul": _matrix_product,
    "mm": _matrix_product,
    "softmax": _softmax,
}
