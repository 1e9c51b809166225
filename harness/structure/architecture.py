"""What a graph says about the architecture: counts, layers, pooling, dropout, normalisation, head.

Everything here is read off the operations that run. A module that is declared and never called is not in them, whatever its
name; an operation that runs is in them, whichever way it was spelled.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from harness.graph.form import Argument, DeclaredModule, Dim, Graph, Operation, Program, Ref, Shape, TensorSpec
from harness.graph.schema import bind
from harness.structure.pooling import global_averages
from harness.structure.receptive_field import ReceptiveField, View, field_of, trace_views

OutputKind = Literal["log-probabilities", "logits", "probabilities", "softmax over another dimension than the classes"]
LinearKind = Literal["linear", "convolution over the whole map"]

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
_NORMALISATION_STATE = frozenset({"running_mean", "running_var"})


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One operation of the training program, as a layer table shows it.

    Args:
        title: the layer's usual name, such as ``Conv2d``.
        module: path of the submodule it runs in; empty for the model's own forward.
        value: name of its result in the graph.
        shape: output shape, batch as ``B``.
        parameters: parameter elements it reads that no operation before it read.
        detail: its settings, such as ``3x3, stride 2``.
        macs: multiply-accumulates for one image; activations, poolings and normalisations count none.
        activation_bytes: memory of its result for one image.
    """

    title: str
    module: str
    value: str
    shape: Shape
    parameters: int
    detail: str
    macs: int
    activation_bytes: int


@dataclass(frozen=True, kw_only=True)
class ParameterCount:
    """What the model holds, in elements; a shared tensor counts once.

    Args:
        total: all parameters, called or not.
        trainable: those that ask for a gradient.
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


@dataclass(frozen=True, kw_only=True)
class DropoutSite:
    """One dropout operation: where, with which probability, when it is active, and on how many numbers an image."""

    module: str
    p: float
    elements: int
    active_in_training: bool
    active_in_evaluation: bool

    @property
    def live(self) -> bool:
        """Whether it does what dropout is for: drops something in training and nothing in evaluation."""
        return self.active_in_training and not self.active_in_evaluation and self.p > 0


@dataclass(frozen=True, kw_only=True)
class BatchNormSite:
    """One batch normalisation: whether it learns from the batch in training and uses running statistics in evaluation."""

    module: str
    batch_statistics_in_training: bool
    batch_statistics_in_evaluation: bool

    @property
    def ordinary(self) -> bool:
        """Whether it normalises by the batch in training and by its running statistics in evaluation."""
        return self.batch_statistics_in_training and not self.batch_statistics_in_evaluation


@dataclass(frozen=True, kw_only=True)
class LinearSite:
    """A fully connected layer, under its own name or as a convolution whose kernel covers a whole map."""

    module: str
    kind: LinearKind
    detail: str


@dataclass(frozen=True, kw_only=True)
class GlobalPool:
    """A global average pooling.

    Args:
        value: name of the pooled value.
        before: name of the map it pools.
        module: path of the submodule it runs in.
        map_size: rows and columns of the map.
        feeds_head: whether the images reach the output only through it.
    """

    value: str
    before: str
    module: str
    map_size: tuple[int, int]
    feeds_head: bool


@dataclass(frozen=True, kw_only=True)
class Head:
    """The end of the model.

    Args:
        kind: what the output is.
        classes: how many columns it has; None when that depends on the batch.
        shape: the output's shape.
        last_weighted: title and module of the last layer with weights.
        after: activations, normalisations and dropouts after it, by title.
    """

    kind: OutputKind
    classes: int | None
    shape: Shape
    last_weighted: str
    after: tuple[str, ...]


class Structure:
    """The architecture of one graph; each figure is worked out when first asked for."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._train = _Flow(graph, graph.train)
        self._eval = _Flow(graph, graph.evaluate)

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """The operations of the training program in order, sizes and bookkeeping left out."""
        specs = {spec.name: spec for spec in self.graph.tensors}
        counted: set[str] = set()
        layers = []
        for operation in self.graph.train.operations:
            if operation.name not in self._train.from_input or not operation.outputs:
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
                    detail=self._detail(operation),
                    macs=self._macs(operation),
                    activation_bytes=_bytes(operation),
                )
            )
        return tuple(layers)

    @cached_property
    def parameters(self) -> ParameterCount:
        """Parameters, and state that a parameter count does not see."""
        read = self._train.read | self._eval.read
        statistics = self._normalisation_state()
        parameters = [spec for spec in self.graph.tensors if spec.kind == "parameter"]
        others = [spec for spec in self.graph.tensors if spec.kind != "parameter"]
        return ParameterCount(
            total=sum(spec.elements for spec in parameters),
            trainable=sum(spec.elements for spec in parameters if spec.requires_grad),
            unreached=tuple(spec for spec in parameters if spec.name not in read),
            hidden=tuple(spec for spec in others if spec.name in read and spec.name not in statistics),
            statistics=sum(spec.elements for spec in others if spec.name in statistics),
        )

    @cached_property
    def never_called(self) -> tuple[DeclaredModule, ...]:
        """Declared modules without children that neither program runs and whose tensors none reads."""
        paths = {
            operation.module for program in (self.graph.train, self.graph.evaluate) for operation in program.operations
        }
        running = {path[:end] for path in paths for end in _prefix_ends(path)}
        read = self._train.read | self._eval.read
        owners = {
            name.rpartition(".")[0]
            for spec in self.graph.tensors
            if spec.name in read
            for name in (spec.name, *spec.aliases)
        }
        parents = {module.path.rpartition(".")[0] for module in self.graph.modules}
        return tuple(
            module
            for module in self.graph.modules
            if module.path and module.path not in running | owners | parents and module.type != "Identity"
        )

    @cached_property
    def dropouts(self) -> tuple[DropoutSite, ...]:
        """Dropout operations on the way to the output, in training order; those active in evaluation only come last."""
        evaluation: dict[str, list[bool]] = {}
        for operation in self._eval.on_path:
            if operation.kind.family == "dropout":
                evaluation.setdefault(operation.module, []).append(_drops(bind(operation)))
        sites = []
        for operation in self._train.on_path:
            if operation.kind.family == "dropout":
                bound = bind(operation)
                left = evaluation.get(operation.module) or [False]
                sites.append(
                    DropoutSite(
                        module=operation.module,
                        p=_probability(bound),
                        elements=_elements(operation.shape),
                        active_in_training=_drops(bound),
                        active_in_evaluation=left.pop(0),
                    )
                )
        for operation in self._eval.on_path:
            if operation.kind.family == "dropout" and evaluation.get(operation.module):
                active = evaluation[operation.module].pop(0)
                if active:
                    sites.append(
                        DropoutSite(
                            module=operation.module,
                            p=_probability(bind(operation)),
                            elements=_elements(operation.shape),
                            active_in_training=False,
                            active_in_evaluation=True,
                        )
                    )
        return tuple(sites)

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
        evaluation: dict[str, list[bool]] = {}
        for operation in self._eval.on_path:
            if operation.kind.name == "batch_norm":
                evaluation.setdefault(operation.module, []).append(bind(operation).get("training") is True)
        sites = []
        for operation in self._train.on_path:
            if operation.kind.name == "batch_norm":
                rest = evaluation.get(operation.module) or [False]
                sites.append(
                    BatchNormSite(
                        module=operation.module,
                        batch_statistics_in_training=bind(operation).get("training") is True,
                        batch_statistics_in_evaluation=rest.pop(0),
                    )
                )
        return tuple(sites)

    @cached_property
    def fully_connected(self) -> tuple[LinearSite, ...]:
        """Fully connected layers on the way to the output, convolutions over a whole map among them."""
        sites = []
        for operation in self._eval.on_path:
            if self._is_product_with_weights(self._eval, operation):
                sites.append(LinearSite(module=operation.module, kind="linear", detail=_words(operation.shape)))
            elif operation.kind.family == "convolution":
                kernel = self._kernel(operation)
                source = self._eval.shapes.get(next(operation.refs()), ())
                if kernel and source[-len(kernel) :] == kernel and math.prod(kernel) > 1:
                    sites.append(
                        LinearSite(
                            module=operation.module,
                            kind="convolution over the whole map",
                            detail=f"{_words(kernel)} kernel on a {_words(kernel)} map",
                        )
                    )
        return tuple(sites)

    @cached_property
    def views(self) -> Mapping[str, View]:
        """What every value of the evaluation program sees."""
        return trace_views(self.graph, self.graph.evaluate)

    @cached_property
    def train_views(self) -> Mapping[str, View]:
        """What every value of the training program sees."""
        return trace_views(self.graph, self.graph.train)

    @cached_property
    def global_pools(self) -> tuple[GlobalPool, ...]:
        """Global average poolings on the way to the output, however they are spelled."""
        averages = global_averages(self.graph.evaluate, self.views)
        pools = []
        for operation in self._eval.on_path:
            before = averages.get(operation.name)
            if before is None:
                continue
            source = self.views[before]
            pools.append(
                GlobalPool(
                    value=operation.name,
                    before=before,
                    module=operation.module,
                    map_size=(source.positions("H"), source.positions("W")),
                    feeds_head=self._eval.only_through(operation.name),
                )
            )
        return tuple(pools)

    @property
    def head_pool(self) -> GlobalPool | None:
        """The global average pooling that feeds the head, if there is one."""
        return next((pool for pool in reversed(self.global_pools) if pool.feeds_head), None)

    @cached_property
    def field_before_head(self) -> tuple[str, ReceptiveField]:
        """The receptive field before the head's pooling, and the value that has it.

        Without a head pooling it is the field of the last value that is still a map of rows and columns.
        """
        if self.head_pool is not None:
            return self.head_pool.before, field_of(self.views[self.head_pool.before])
        maps = [
            operation.name
            for operation in self._eval.on_path
            if operation.name in self.views and {("H",), ("W",)} <= set(self.views[operation.name].axes)
        ]
        name = maps[-1] if maps else self.graph.input_name
        return name, field_of(self.views[name])

    @cached_property
    def field_with_head(self) -> ReceptiveField:
        """The receptive field of the output."""
        view = self.views.get(self.graph.evaluate.output)
        return field_of(view if view is not None else self.views[self.graph.input_name])

    @cached_property
    def head(self) -> Head:
        """What the output is, and what stands between it and the last layer with weights."""
        path = self._eval.on_path
        shape: Shape = path[-1].shape if path else ("B", *self.graph.input_shape)
        classes = shape[-1] if len(shape) == 2 and isinstance(shape[-1], int) else None  # noqa: PLR2004 - (batch, classes)
        last, tail = self._last_weighted()
        return Head(
            kind=_output_kind(path, classes),
            classes=classes,
            shape=shape,
            last_weighted=_place(last) if last is not None else "none",
            after=tuple(operation_title(operation) for operation in _changes_of_scores(tail)),
        )

    def _last_weighted(self) -> tuple[Operation | None, tuple[Operation, ...]]:
        """The last layer with weights of a training pass, and what follows it on the way to the output."""
        path = self._train.on_path
        for index in reversed(range(len(path))):
            operation = path[index]
            convolves = operation.kind.family in ("convolution", "transposed convolution")
            if (convolves and self._reads_weights(operation)) or self._is_product_with_weights(self._train, operation):
                return operation, path[index + 1 :]
        return None, path

    def _normalisation_state(self) -> set[str]:
        """Names of running statistics and of the counters beside them."""
        statistics: set[str] = set()
        for program in (self.graph.train, self.graph.evaluate):
            for operation in program.operations:
                if operation.kind.name in ("batch_norm", "instance_norm"):
                    bound = bind(operation)
                    statistics.update(
                        argument.name
                        for key, argument in bound.items()
                        if key in _NORMALISATION_STATE and isinstance(argument, Ref)
                    )
        owners = {name.rpartition(".")[0] for name in statistics}
        return statistics | {
            spec.name
            for spec in self.graph.tensors
            if spec.kind == "buffer"
            and spec.shape == ()
            and spec.name.rpartition(".")[0] in owners
            and spec.name.endswith("num_batches_tracked")
        }

    def _reads_weights(self, operation: Operation) -> bool:
        return any(ref in self._train.from_weights | self._eval.from_weights for ref in operation.refs())

    def _is_product_with_weights(self, flow: _Flow, operation: Operation) -> bool:
        if operation.kind.family == "matrix product":
            return self._reads_weights(operation)
        return flow.summed_product(operation) is not None

    def _kernel(self, operation: Operation) -> tuple[int, ...]:
        weight = bind(operation).get("weight")
        shape = self._eval.shapes.get(weight.name, ()) if isinstance(weight, Ref) else ()
        return tuple(dim for dim in shape[2:] if isinstance(dim, int))

    def _macs(self, operation: Operation) -> int:
        """Multiply-accumulates for one image: each output number of a convolution or product costs its inner length."""
        bound = bind(operation)
        name, family = operation.kind.name, operation.kind.family
        outputs = _elements(operation.shape)
        if family == "convolution":
            weight = bound.get("weight")
            shape = self._train.shapes.get(weight.name, ()) if isinstance(weight, Ref) else ()
            return outputs * _elements(shape[1:])
        if family == "transposed convolution":
            # Each input number is spread by a kernel to every output channel of its group.
            source, weight = bound.get("input"), bound.get("weight")
            if isinstance(source, Ref) and isinstance(weight, Ref):
                spread = _elements(self._train.shapes[weight.name][1:])
                return _elements(self._train.shapes[source.name]) * spread
        if name == "einsum":
            return _einsum_macs(bound.get("equation"), [self._train.shapes[ref] for ref in operation.refs()])
        product = self._train.summed_product(operation)
        if product is not None:
            return _elements(product.shape)
        if family == "matrix product":
            key = {"addmm": "mat1", "baddbmm": "batch1"}.get(name, "input" if "input" in bound else "self")
            source = bound.get(key)
            if isinstance(source, Ref):
                inner = self._train.shapes[source.name][-1:]
                return outputs * _elements(inner)
        return 0

    def _detail(self, operation: Operation) -> str:
        bound = bind(operation)
        match operation.kind.name:
            case "conv2d":
                words = [_words(self._train_kernel(operation))]
                words += _settings(bound, {"stride": 1, "padding": 0, "dilation": 1})
                groups = bound.get("groups")
                return ", ".join(words + ([f"groups {groups}"] if groups != 1 else []))
            case "max_pool2d" | "avg_pool2d":
                kernel = bound.get("kernel_size")
                return ", ".join([_kernel_words(kernel), *_settings(bound, {"padding": 0})])
            case _ if operation.kind.family == "dropout":
                return f"p = {_probability(bound):g}"
            case _:
                return ""

    def _train_kernel(self, operation: Operation) -> tuple[int, ...]:
        weight = bind(operation).get("weight")
        shape = self._train.shapes.get(weight.name, ()) if isinstance(weight, Ref) else ()
        return tuple(dim for dim in shape[2:] if isinstance(dim, int))


class _Flow:
    """Who feeds whom in one program."""

    def __init__(self, graph: Graph, program: Program) -> None:
        self.input_name = graph.input_name
        self.program = program
        self.by_name = {operation.name: operation for operation in program.operations}
        self.shapes: dict[str, Shape] = {spec.name: spec.shape for spec in graph.tensors}
        self.shapes |= {operation.name: operation.shape for operation in program.operations}
        self.shapes[graph.input_name] = ("B", *graph.input_shape)
        tensors = {spec.name for spec in graph.tensors}
        alias = {name: spec.name for spec in graph.tensors for name in spec.aliases}
        self.read = {alias.get(ref, ref) for operation in program.operations for ref in operation.refs()} & tensors
        self.from_weights = set(tensors)
        self.from_input = {graph.input_name}
        # Sizes carry no pixels: only operations on tensors pass the images on.
        for operation in program.operations:
            if operation.outputs or operation.op == "operator.getitem":
                refs = set(operation.refs())
                if refs & self.from_input:
                    self.from_input.add(operation.name)
                elif refs & self.from_weights:
                    self.from_weights.add(operation.name)
        needed = {program.output}
        for operation in reversed(program.operations):
            if operation.name in needed:
                needed.update(() if _is_nothing(operation) else operation.refs())
            elif operation.kind.in_place and set(operation.refs()) & needed:
                # An in-place operation changes a value that is needed although its own result is not read again.
                needed.add(operation.name)
                needed.update(operation.refs())
        self.on_path = tuple(
            operation
            for operation in program.operations
            if operation.name in needed and operation.name in self.from_input
        )

    def only_through(self, name: str) -> bool:
        """Whether every way from the input to the output passes the value."""
        reached = {self.input_name}
        for operation in self.program.operations:
            if operation.name == name or operation.name not in self.from_input or _is_nothing(operation):
                continue
            if reached & set(operation.refs()):
                reached.add(operation.name)
        return self.program.output not in reached

    def summed_product(self, operation: Operation) -> Operation | None:
        """The element-wise product of images and weights that this sum makes a matrix product of, if it does."""
        refs = list(operation.refs())
        product = self.by_name.get(refs[0]) if operation.kind.name in ("mean", "sum") and refs else None
        if product is None or product.kind.name != "mul":
            return None
        sides = set(product.refs())
        images, weights = sides & self.from_input, sides & self.from_weights
        if len(images) != 1 or len(weights) != 1:
            return None
        count = len(product.shape)
        image_shape, weight_shape = (
            (*([1] * (count - len(self.shapes[name]))), *self.shapes[name]) for name in (*images, *weights)
        )
        dims = bind(operation).get("dim")
        summed = {dim % count for dim in (dims if isinstance(dims, tuple) else (dims,)) if isinstance(dim, int)}
        pairs = list(zip(image_shape, weight_shape, strict=True))
        contracts = any(place in summed and pair[0] != 1 and pair[1] != 1 for place, pair in enumerate(pairs))
        fans_out = any(place not in summed and pair[0] == 1 != pair[1] for place, pair in enumerate(pairs))
        return product if contracts and fans_out else None


def _is_nothing(operation: Operation) -> bool:
    """Whether the result is zero whatever the operands hold: a product with a literal zero."""
    return operation.kind.name == "mul" and 0 in [
        argument for argument in operation.args if isinstance(argument, int | float)
    ]


def operation_title(operation: Operation) -> str:
    """The usual name of the layer that an operation is, such as ``Conv2d``; its own name where it has none."""
    return _TITLES.get(operation.kind.name, operation.kind.name)


def _place(operation: Operation) -> str:
    return f"{operation_title(operation)} {operation.module}".strip()


def _prefix_ends(path: str) -> Iterable[int]:
    return [i for i, character in enumerate(path) if character == "."] + [len(path)]


_ITEM_BYTES = {"float64": 8, "int64": 8, "float16": 2, "bfloat16": 2, "bool": 1, "uint8": 1, "int8": 1}


def _elements(shape: Shape) -> int:
    """Numbers an image: the batch counts as one."""
    return math.prod(dim if isinstance(dim, int) else 1 for dim in shape)


def _bytes(operation: Operation) -> int:
    return sum(_elements(meta.shape) * _ITEM_BYTES.get(meta.dtype, 4) for meta in operation.outputs)


def _einsum_macs(equation: Argument, shapes: list[Shape]) -> int:
    """Each combination of the indices once; a sum over one operand multiplies nothing."""
    if not isinstance(equation, str) or len(shapes) < 2:  # noqa: PLR2004 - a product has two sides
        return 0
    sizes: dict[str, Dim] = {}
    for term, shape in zip(equation.replace(" ", "").partition("->")[0].split(","), shapes, strict=False):
        before, _, after = term.partition("...")
        spread = [f"...{place}" for place in range(len(shape) - len(before) - len(after), 0, -1)]
        for index, size in zip((*before, *spread, *after), shape, strict=False):
            sizes[index] = size if sizes.get(index, 1) == 1 else sizes[index]
    return _elements(tuple(sizes.values()))


def _probability(bound: Mapping[str, Argument]) -> float:
    p = bound.get("p")
    return float(p) if isinstance(p, int | float) else 0.0


def _drops(bound: Mapping[str, Argument]) -> bool:
    return bound.get("train", bound.get("training")) is True


def _changes_of_scores(tail: tuple[Operation, ...]) -> Iterable[Operation]:
    """What changes the scores on the way to the output; the softmax that gives the output is no such change."""
    softmaxes = [operation for operation in tail if operation.kind.family in ("softmax", "log-softmax")]
    changing = ("activation", "dropout", "gating", "normalisation")
    return [operation for operation in tail if operation.kind.family in changing or operation in softmaxes[:-1]]


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


def _settings(bound: Mapping[str, Argument], defaults: Mapping[str, int]) -> list[str]:
    words = []
    for key, default in defaults.items():
        value = bound.get(key)
        values = set(value) if isinstance(value, tuple) else {value}
        if values - {default, None}:
            words.append(f"{key} {_kernel_words(value)}")
    return words


def _kernel_words(value: object) -> str:
    if isinstance(value, tuple):
        return _words(value) if len(set(value)) > 1 or len(value) > 1 else str(value[0])
    return str(value)


def _words(values: Iterable[object]) -> str:
    return "x".join(str(value) for value in values)
