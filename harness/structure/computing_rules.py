"""Receptive-field rules for sliding windows, such as convolutions, and for reductions over whole dimensions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from harness.graph.form import Operation, Ref
from harness.structure.fields import AXES, AxisField, FieldMap, Taps
from harness.structure.traced_values import (
    Arguments,
    Rule,
    TracedValues,
    UnknownReadsError,
    followed,
    map_size,
    normalised_dims,
)

# How reductions that may be part of a pooling combine the values of their operand.
_HOW = {"amax": "maximum", "max": "maximum", "mean": "average", "sum": "sum"}


@dataclass(frozen=True, kw_only=True)
class _Window:
    """A sliding window along one axis; ``padding`` is the padding before the first position."""

    kernel: int
    stride: int
    padding: int
    dilation: int = 1


def _convolution(values: TracedValues, operation: Operation, arguments: Arguments) -> FieldMap:
    field_map = values.map_of(arguments["input"])
    kernel = [followed(dim) for dim in values.shape_of(arguments["weight"])[2:]]
    stride = _pair(arguments.get("stride"), (1, 1))
    dilation = _pair(arguments.get("dilation"), (1, 1))
    padding = arguments.get("padding")
    if padding == "same":
        # If the total padding is odd, torch pads one pixel more after the map than before.
        before = tuple((d * (k - 1)) // 2 for d, k in zip(dilation, kernel, strict=True))
    else:
        before = (0, 0) if padding == "valid" else _pair(padding, (0, 0))
    windows = [_Window(kernel=kernel[i], stride=stride[i], padding=before[i], dilation=dilation[i]) for i in range(2)]
    convolved = _windowed(field_map, operation, windows, "convolution")
    return replace(convolved, mixed=field_map.mixed and arguments.get("groups") != 1)


def _transposed_convolution(values: TracedValues, operation: Operation, arguments: Arguments) -> FieldMap:
    field_map = _as_map(values.map_of(arguments["input"]))
    kernel = [followed(dim) for dim in values.shape_of(arguments["weight"])[2:]]
    stride, padding = _pair(arguments.get("stride"), (1, 1)), _pair(arguments.get("padding"), (0, 0))
    dilation = _pair(arguments.get("dilation"), (1, 1))
    for index, (axis, outputs) in enumerate(zip(AXES, map_size(operation), strict=True)):
        taps = []
        for o in range(outputs):
            offsets = [o + padding[index] - k * dilation[index] for k in range(kernel[index])]
            taps.append([offset // stride[index] for offset in offsets if offset % stride[index] == 0])
        field_map = field_map.through(axis, taps, stride=Fraction(1, stride[index]))
    return replace(field_map, mixed=field_map.mixed and arguments.get("groups") != 1)


def _max_pool(values: TracedValues, operation: Operation, arguments: Arguments) -> FieldMap:
    kernel = _pair(arguments["kernel_size"], (1, 1))
    stride, padding = _pair(arguments.get("stride"), kernel), _pair(arguments.get("padding"), (0, 0))
    dilation = _pair(arguments.get("dilation"), (1, 1))
    windows = [_Window(kernel=kernel[i], stride=stride[i], padding=padding[i], dilation=dilation[i]) for i in range(2)]
    return values.keep_parts(operation, _windowed(values.map_of(arguments["self"]), operation, windows, "maximum"))


def _average_pool(values: TracedValues, operation: Operation, arguments: Arguments) -> FieldMap:
    field_map = values.map_of(arguments["self"])
    kernel = _pair(arguments["kernel_size"], (1, 1))
    stride, padding = _pair(arguments.get("stride"), kernel), _pair(arguments.get("padding"), (0, 0))
    divisor = arguments.get("divisor_override")
    covers = kernel == (field_map.positions("H"), field_map.positions("W")) and padding == (0, 0)
    plain = divisor is None or divisor == kernel[0] * kernel[1]
    windows = [_Window(kernel=kernel[i], stride=stride[i], padding=padding[i]) for i in range(2)]
    return _windowed(field_map, operation, windows, "average" if covers and plain else "part average")


def _adaptive_pool(how: str) -> Rule:
    def rule(values: TracedValues, operation: Operation, arguments: Arguments) -> FieldMap:
        field_map = _as_map(values.map_of(arguments["self"]))
        for axis, outputs in zip(AXES, map_size(operation), strict=True):
            inputs = field_map.positions(axis)
            taps = [list(range(o * inputs // outputs, -(-(o + 1) * inputs // outputs))) for o in range(outputs)]
            stride = Fraction(inputs, outputs) if inputs % outputs == 0 else None
            field_map = field_map.through(axis, taps, stride=stride, how=how)
        return values.keep_parts(operation, field_map)

    return rule


def _resize(reads: Callable[[int, int, float, bool], list[int]]) -> Rule:
    """Make the rule for a resize.

    ``reads(position, inputs, scale, align_corners)`` returns the input positions that an output position depends on;
    ``inputs`` is the number of input positions along the axis.
    """

    def rule(values: TracedValues, operation: Operation, arguments: Arguments) -> FieldMap:
        field_map = _as_map(values.map_of(arguments["input"] if "input" in arguments else arguments["self"]))
        align = arguments.get("align_corners") is True
        factors = arguments.get("scale_factors")
        factors = factors if isinstance(factors, tuple) else (arguments.get("scales_h"), arguments.get("scales_w"))
        for factor, axis, outputs in zip(factors, AXES, map_size(operation), strict=True):
            inputs = field_map.positions(axis)
            # The same single-precision arithmetic as torch's area_pixel_compute_scale: a rounding decides a pixel.
            if align:
                scale = np.float32(inputs - 1) / np.float32(outputs - 1) if outputs > 1 else np.float32(0)
            elif isinstance(factor, int | float) and factor > 0:
                scale = np.float32(1.0 / factor)
            else:
                scale = np.float32(inputs) / np.float32(outputs)
            # If an axis keeps its size, torch copies the values, except in a bicubic resize, which always interpolates.
            copies = inputs == outputs and reads is not _bicubic
            taps = [[o] if copies else sorted(set(reads(o, inputs, float(scale), align))) for o in range(outputs)]
            ratio = Fraction(inputs, outputs)
            uniform = ratio.denominator == 1 or ratio.numerator == 1
            field_map = field_map.through(axis, taps, stride=ratio if uniform and not align else None)
        return field_map

    return rule


def _nearest(position: int, inputs: int, scale: float, _align: bool) -> list[int]:  # noqa: FBT001 - one signature for all
    return [min(int(np.float32(position) * np.float32(scale)), inputs - 1)]


def _nearest_exact(position: int, inputs: int, scale: float, _align: bool) -> list[int]:  # noqa: FBT001
    return [min(int((np.float32(position) + np.float32(0.5)) * np.float32(scale)), inputs - 1)]


def _bilinear(position: int, inputs: int, scale: float, align: bool) -> list[int]:  # noqa: FBT001
    first = min(int(max(_source(position, scale, align=align), 0.0)), inputs - 1)
    return [first, min(first + 1, inputs - 1)]


def _bicubic(position: int, inputs: int, scale: float, align: bool) -> list[int]:  # noqa: FBT001
    first = math.floor(_source(position, scale, align=align))
    return [min(max(first + offset, 0), inputs - 1) for offset in (-1, 0, 1, 2)]


def _source(position: int, scale: float, *, align: bool) -> float:
    """The input coordinate of an output position, in single precision as torch computes it."""
    if align:
        return float(np.float32(scale) * np.float32(position))
    return float(np.float32(scale) * (np.float32(position) + np.float32(0.5)) - np.float32(0.5))


def _pad(values: TracedValues, operation: Operation, arguments: Arguments) -> FieldMap:
    field_map = values.map_of(arguments["self"])
    amounts = arguments.get("pad", arguments.get("padding"))
    modes = {"reflection_pad2d": "reflect", "replication_pad2d": "replicate"}
    mode = modes.get(operation.kind.name, arguments.get("mode", "constant"))
    if not isinstance(amounts, tuple):
        reason = "the padding is not a constant"
        raise UnknownReadsError(reason)
    for index in range(len(amounts) // 2):
        before, after = amounts[2 * index], amounts[2 * index + 1]
        axis = field_map.axis_of(-1 - index)
        if before == after == 0 or not isinstance(before, int) or not isinstance(after, int):
            continue
        if axis is not None:
            inputs = field_map.positions(axis)
            followed(inputs + before + after)
            positions = range(-before, inputs + after)
            taps = [[_padded(position, inputs, str(mode))] for position in positions]
            # On an unbounded input, a padded position is an ordinary pixel, also if the padding copies other pixels.
            field_map = field_map.through(axis, taps, unbounded=[[position] for position in positions])
        elif field_map.axes[-1 - index] == ("C",):
            field_map = field_map.some_channels() if min(before, after) < 0 else field_map
        else:
            reason = "the operation pads a dimension other than rows, columns and channels"
            raise UnknownReadsError(reason)
    return field_map


def _padded(position: int, size: int, mode: str) -> int:
    """The input position that a padded position copies; zero padding copies none, and the position is returned as given."""
    match mode:
        case "reflect":
            period = 2 * (size - 1) or 1
            folded = position % period
            return min(folded, period - folded)
        case "replicate":
            return min(max(position, 0), size - 1)
        case "circular":
            return position % size
        case _:
            return position


def _shuffled(values: TracedValues, operation: Operation, arguments: Arguments) -> FieldMap:
    field_map = _as_map(values.map_of(arguments["self"]))
    up = operation.kind.name == "pixel_shuffle"
    factor = arguments["upscale_factor" if up else "downscale_factor"]
    if not isinstance(factor, int):
        reason = "the factor is not a constant"
        raise UnknownReadsError(reason)
    for axis, outputs in zip(AXES, map_size(operation), strict=True):
        taps = [[o // factor] if up else list(range(o * factor, (o + 1) * factor)) for o in range(outputs)]
        field_map = field_map.through(axis, taps, stride=Fraction(1, factor) if up else Fraction(factor))
    return field_map.some_channels() if up else replace(field_map, mixed=True)


def _windowed(field_map: FieldMap, operation: Operation, windows: Sequence[_Window], how: str) -> FieldMap:
    """The field map of an operation's result, given the field map of its operand and a sliding window for each axis."""
    field_map = _as_map(field_map)
    for axis, outputs, window in zip(AXES, map_size(operation), windows, strict=True):
        offsets = [k * window.dilation - window.padding for k in range(followed(window.kernel))]
        taps: Taps = [[o * window.stride + offset for offset in offsets] for o in range(outputs)]
        field_map = field_map.through(axis, taps, stride=Fraction(window.stride), how=how)
    return field_map


def _as_map(field_map: FieldMap) -> FieldMap:
    """A copy of the field map in which the last two dimensions stand for rows and columns, also if of size one.

    Raises:
        UnknownReadsError: the last two dimensions stand for other axes.
    """
    axes = list(field_map.axes)
    for place, axis in zip((-2, -1), AXES, strict=True):
        if len(axes) >= -place and axes[place] == () and field_map.positions(axis) == 1:
            axes[place] = (axis,)
    if axes[-2:] != [("H",), ("W",)]:
        reason = "the last two dimensions of the operand are not rows and columns"
        raise UnknownReadsError(reason)
    return replace(field_map, axes=tuple(axes))


def _pair(value: object, default: tuple[int, int]) -> tuple[int, int]:
    """Return a setting, such as a stride, as a pair for rows and columns; ``value`` is one number or two, or not given.

    Raises:
        UnknownReadsError: the setting is not a constant.
    """
    if isinstance(value, int):
        return value, value
    if isinstance(value, tuple) and value and all(isinstance(item, int) for item in value):
        items = [item for item in value if isinstance(item, int)]
        return items[0], items[-1]
    if value is None or value == ():
        return default
    reason = "a kernel size, stride, padding or dilation is not a constant"
    raise UnknownReadsError(reason)


def reduced(values: TracedValues, operation: Operation, arguments: Arguments) -> FieldMap:
    """The field map of the result of a reduction, such as a mean, over some dimensions."""
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
    """The field map of a product with a weight matrix, which depends on the whole last dimension of the other operand."""
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
    """The field map of a batch norm.

    With batch statistics in evaluation, every position depends on the whole map; in training, the dependence on batch
    statistics is ignored.
    """
    if values.evaluates and arguments.get("training") is True:
        return _normalised(values, operation, arguments)
    return values.map_of(arguments["input"])


def _normalised(values: TracedValues, operation: Operation, arguments: Arguments) -> FieldMap:
    """The field map of a normalisation, whose result depends on all positions along the normalised dimensions."""
    field_map = values.map_of(arguments["input"])
    if operation.kind.name == "instance_norm" and arguments.get("use_input_stats") is False:
        return field_map
    count = len(field_map.axes)
    shape = arguments.get("normalized_shape")
    return _whole_over(field_map, range(count - len(shape), count) if isinstance(shape, tuple) else range(count))


def _whole_over(field_map: FieldMap, dims: Iterable[int]) -> FieldMap:
    """A copy of the field map in which every position along ``dims`` depends on all pixels that any of them depends on."""
    for dim in dims:
        field_map = field_map.map_axes_of(dim, AxisField.whole_everywhere)
    return field_map


COMPUTING_RULES: dict[str, Rule] = {
    "_upsample_nearest_exact2d": _resize(_nearest_exact),
    "adaptive_avg_pool2d": _adaptive_pool("average"),
    "adaptive_max_pool2d": _adaptive_pool("maximum"),
    "addmm": _matrix_product,
    "avg_pool2d": _average_pool,
    "batch_norm": _batch_norm,
    "conv2d": _convolution,
    "conv_transpose2d": _transposed_convolution,
    "group_norm": _normalised,
    "instance_norm": _normalised,
    "layer_norm": _normalised,
    "linear": _matrix_product,
    "log_softmax": _softmax,
    "matmul": _matrix_product,
    "max_pool2d": _max_pool,
    "mm": _matrix_product,
    "pad": _pad,
    "pixel_shuffle": _shuffled,
    "pixel_unshuffle": _shuffled,
    "reflection_pad2d": _pad,
    "replication_pad2d": _pad,
    "softmax": _softmax,
    "upsample_bicubic2d": _resize(_bicubic),
    "upsample_bilinear2d": _resize(_bilinear),
    "upsample_nearest2d": _resize(_nearest),
}
