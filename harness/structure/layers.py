"""The operations of a program as rows of a layer table: titles, settings, parameter counts and costs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from harness.graph.form import Argument, Dim, Operation, Ref, Shape, bind
from harness.structure.dataflow import DataFlow

_TITLES = {
    "adaptive_avg_pool2d": "AdaptiveAvgPool2d",
    "adaptive_max_pool2d": "AdaptiveMaxPool2d",
    "addmm": "Linear",
    "alpha_dropout": "AlphaDropout",
    "avg_pool2d": "AvgPool2d",
    "batch_norm": "BatchNorm2d",
    "conv2d": "Conv2d",
    "conv_transpose2d": "ConvTranspose2d",
    "dropout": "Dropout",
    "elu": "ELU",
    "feature_dropout": "Dropout2d",
    "gelu": "GELU",
    "group_norm": "GroupNorm",
    "hardswish": "Hardswish",
    "layer_norm": "LayerNorm",
    "leaky_relu": "LeakyReLU",
    "linear": "Linear",
    "log_softmax": "LogSoftmax",
    "max_pool2d": "MaxPool2d",
    "mish": "Mish",
    "prelu": "PReLU",
    "relu": "ReLU",
    "relu6": "ReLU6",
    "sigmoid": "Sigmoid",
    "silu": "SiLU",
    "softmax": "Softmax",
    "tanh": "Tanh",
    "upsample_bilinear2d": "Resize (bilinear)",
    "upsample_nearest2d": "Resize (nearest)",
}
_ITEM_BYTES = {"float64": 8, "int64": 8, "float16": 2, "bfloat16": 2, "bool": 1, "uint8": 1, "int8": 1}
# The first operand of a matrix product, where it is called neither "input" nor "self".
_FIRST_OPERANDS = {"addmm": "mat1", "baddbmm": "batch1"}


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One operation of the training program, as a row of a layer table.

    Args:
        title: the usual layer name of the operation, such as ``Conv2d``.
        module: path of the submodule whose forward runs the operation; empty for the model's own forward.
        value: name of the operation's result in the graph.
        shape: shape of the result, with ``B`` for the batch size.
        parameters: number of elements of the parameters that this operation reads and no earlier operation reads.
        detail: settings of the operation, such as ``3x3, stride 2``.
        macs: multiply-accumulates for one image; zero for activations, poolings and normalisations.
        activation_bytes: memory of the result for one image.
    """

    title: str
    module: str
    value: str
    shape: Shape
    parameters: int
    detail: str
    macs: int
    activation_bytes: int


def list_layers(flow: DataFlow) -> tuple[Layer, ...]:
    """The operations of a program that depend on the images, in order; operations on sizes are left out."""
    specs = {spec.name: spec for spec in flow.graph.tensors}
    counted: set[str] = set()
    layers = []
    for operation in flow.program.operations:
        if operation.name not in flow.from_input or not operation.outputs:
            continue
        read = [specs[ref] for ref in operation.refs() if ref in specs and ref not in counted]
        counted.update(spec.name for spec in read)
        layers.append(
            Layer(
                title=operation_title(operation),
                module=operation.module,
                value=operation.name,
                shape=operation.shape,
                parameters=sum(spec.elements for spec in read if spec.kind == "parameter"),
                detail=_detail(flow, operation),
                macs=_macs(flow, operation),
                activation_bytes=sum(
                    elements_per_image(meta.shape) * _ITEM_BYTES.get(meta.dtype, 4) for meta in operation.outputs
                ),
            )
        )
    return tuple(layers)


def operation_title(operation: Operation) -> str:
    """The usual layer name of an operation, such as ``Conv2d``; the operation's name if there is none."""
    return _TITLES.get(operation.kind.name, operation.kind.name)


def elements_per_image(shape: Shape) -> int:
    """Number of elements of a value for a batch of one image."""
    return math.prod(dim if isinstance(dim, int) else 1 for dim in shape)


def by_x(values: Iterable[object]) -> str:
    """Format sizes as text such as ``3x3``."""
    return "x".join(str(value) for value in values)


def _macs(flow: DataFlow, operation: Operation) -> int:
    """Multiply-accumulates of an operation for one image: one for each term of a convolution's or matrix product's sums."""
    arguments = bind(operation)
    outputs = elements_per_image(operation.shape)
    product = flow.summed_product(operation)
    match operation.kind.family:
        case "convolution":
            return outputs * elements_per_image(flow.weight_shape(operation)[1:])
        case "transposed convolution":
            # Each input element is multiplied by one kernel for each output channel of its group.
            source = arguments.get("input")
            spread = elements_per_image(flow.weight_shape(operation)[1:])
            return elements_per_image(flow.shapes[source.name]) * spread if isinstance(source, Ref) else 0
        case "matrix product" if operation.kind.name == "einsum":
            return _einsum_macs(arguments.get("equation"), [flow.shapes[ref] for ref in operation.refs()])
        case "matrix product":
            usual = "input" if "input" in arguments else "self"
            source = arguments.get(_FIRST_OPERANDS.get(operation.kind.name, usual))
            return outputs * elements_per_image(flow.shapes[source.name][-1:]) if isinstance(source, Ref) else 0
        case _:
            return elements_per_image(product.shape) if product is not None else 0


def _einsum_macs(equation: Argument, shapes: list[Shape]) -> int:
    """Multiply-accumulates of an einsum: one for each combination of indices, none if there is a single operand."""
    if not isinstance(equation, str) or len(shapes) < 2:  # noqa: PLR2004 - a product has two sides
        return 0
    sizes: dict[str, Dim] = {}
    for term, shape in zip(equation.replace(" ", "").partition("->")[0].split(","), shapes, strict=False):
        before, _, after = term.partition("...")
        spread = [f"...{place}" for place in range(len(shape) - len(before) - len(after), 0, -1)]
        for index, size in zip((*before, *spread, *after), shape, strict=False):
            sizes[index] = size if sizes.get(index, 1) == 1 else sizes[index]
    return elements_per_image(tuple(sizes.values()))


def _detail(flow: DataFlow, operation: Operation) -> str:
    """The settings of a convolution, pooling or dropout as text, without default values; empty for other operations."""
    arguments = bind(operation)
    match operation.kind.name:
        case "conv2d":
            kernel = by_x(dim for dim in flow.weight_shape(operation)[2:] if isinstance(dim, int))
            settings = _settings(arguments, {"stride": 1, "padding": 0, "dilation": 1})
            groups = arguments.get("groups")
            return ", ".join([kernel, *settings, *([f"groups {groups}"] if groups != 1 else [])])
        case "max_pool2d" | "avg_pool2d":
            return ", ".join([_setting(arguments.get("kernel_size")), *_settings(arguments, {"padding": 0})])
        case _ if operation.kind.family == "dropout":
            return f"p = {dropout_probability(arguments):g}"
        case _:
            return ""


def dropout_probability(arguments: Mapping[str, Argument]) -> float:
    """The drop probability in the arguments of a dropout operation; 0 if there is none."""
    p = arguments.get("p", arguments.get("dropout_p"))
    return float(p) if isinstance(p, int | float) else 0.0


def _settings(arguments: Mapping[str, Argument], defaults: Mapping[str, int]) -> list[str]:
    words = []
    for key, default in defaults.items():
        value = arguments.get(key)
        values = set(value) if isinstance(value, tuple) else {value}
        if values - {default, None}:
            words.append(f"{key} {_setting(value)}")
    return words


def _setting(value: object) -> str:
    if isinstance(value, tuple):
        return by_x(value) if len(value) > 1 else str(value[0])
    return str(value)
