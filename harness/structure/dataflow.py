"""Which values of a program depend on the images, which on weights alone, and which reach the output."""

from __future__ import annotations

from harness.graph.form import Graph, Operation, Program, Ref, Shape, bind

# Over dimensions of one number each they leave it as it is.
_REDUCTIONS = frozenset({"amax", "amin", "mean", "prod", "sum"})
_ADAPTIVE_POOLS = frozenset({"adaptive_avg_pool2d", "adaptive_max_pool2d"})
_TAKES_SHAPE = frozenset({"expand_as", "type_as", "view_as"})
# A literal on the right that changes no number.
_NEUTRAL = {"add": 0, "sub": 0, "mul": 1, "div": 1}


class DataFlow:
    """The data dependencies in one program.

    Attributes:
        graph: the graph of the program.
        program: the program.
        shapes: the shape of every value.
        read: the graph's tensors that some operation reads, by name.
        from_input: names of the values that depend on the images.
        from_weights: names of the values that depend on the graph's tensors only.
        on_path: the operations on the way from the images to the output, in order.
    """

    def __init__(self, graph: Graph, program: Program) -> None:
        self.graph = graph
        self.program = program
        self._by_name = {operation.name: operation for operation in program.operations}
        self.shapes: dict[str, Shape] = {spec.name: spec.shape for spec in graph.tensors}
        self.shapes |= {operation.name: operation.shape for operation in program.operations}
        self.shapes[graph.input_name] = ("B", *graph.input_shape)
        tensors = {spec.name for spec in graph.tensors}
        names = {name: spec.name for spec in graph.tensors for name in spec.aliases}
        self.read = {names.get(ref, ref) for operation in program.operations for ref in operation.refs()} & tensors
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
                needed.update(() if _is_zero(operation) else operation.refs())
            elif operation.kind.in_place and set(operation.refs()) & needed:
                # An in-place operation changes a value that is needed although its own result is not read again.
                needed.add(operation.name)
                needed.update(operation.refs())
        self.on_path = tuple(
            operation
            for operation in program.operations
            if operation.name in needed and operation.name in self.from_input
        )

    def only_through(self, *names: str) -> bool:
        """Whether every path from the input to the output passes through one of the named values."""
        reached = {self.graph.input_name}
        for operation in self.program.operations:
            if operation.name in names or operation.name not in self.from_input or _is_zero(operation):
                continue
            if reached.intersection(numbers_read(operation)):
                reached.add(operation.name)
        return self.program.output not in reached

    def is_weighted_convolution(self, operation: Operation) -> bool:
        """Whether it is a convolution, transposed or not, that reads weights."""
        return operation.kind.family in ("convolution", "transposed convolution") and self._reads_weights(operation)

    def is_weighted_product(self, operation: Operation) -> bool:
        """Whether it multiplies by a matrix of weights, as a linear layer does, however it is written."""
        if operation.kind.family == "matrix product":
            return self._reads_weights(operation)
        return self.summed_product(operation) is not None

    def summed_product(self, operation: Operation) -> Operation | None:
        """The elementwise product of images and weights that this operation sums to a matrix product; else None."""
        refs = list(operation.refs())
        product = self._by_name.get(refs[0]) if operation.kind.name in ("mean", "sum") and refs else None
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

    def weight_shape(self, operation: Operation) -> Shape:
        """Shape of an operation's weights; for a convolution: output channels, channels per group, rows, columns."""
        weight = bind(operation).get("weight")
        return self.shapes.get(weight.name, ()) if isinstance(weight, Ref) else ()

    def _reads_weights(self, operation: Operation) -> bool:
        return any(ref in self.from_weights for ref in operation.refs())


def _is_zero(operation: Operation) -> bool:
    """Whether the result is always zero: a product with a literal zero."""
    return operation.kind.name == "mul" and 0 in [
        argument for argument in operation.args if isinstance(argument, int | float)
    ]


def numbers_read(operation: Operation) -> list[str]:
    """Operands whose elements are read, each once; excludes those read only for their shape, as by ``view_as``."""
    if operation.kind.family in ("creation", "random creation"):
        return []
    refs = list(dict.fromkeys(operation.refs()))
    return refs[:1] if operation.kind.name in _TAKES_SHAPE else refs


def changes_nothing(operation: Operation, source: Shape, *, same_dtype: bool) -> bool:
    """Whether the result equals the first operand, except for dimensions of size one.

    ``source`` is the shape of that operand, ``same_dtype`` whether the result has its dtype.
    """
    bound, name, family = bind(operation), operation.kind.name, operation.kind.family
    same_dims = plain_dims(source) == plain_dims(operation.shape)
    if family == "copy":
        return True
    if family == "dropout":
        return bound.get("train", bound.get("training")) is not True
    if family == "conversion":
        return same_dtype
    if family == "reshape" or name in ("expand", "select") or (name == "slice" and bound.get("step") == 1):
        return same_dims
    if name in _REDUCTIONS:
        return same_dtype and same_dims
    if name in _ADAPTIVE_POOLS:
        return source == operation.shape and len(operation.outputs) == 1
    if name in _NEUTRAL and bound.get("rounding_mode") is None and source == operation.shape:
        return same_dtype and isinstance(bound.get("self"), Ref) and bound.get("other") == _NEUTRAL[name]
    return False


def plain_dims(shape: Shape) -> list[int | str]:
    """The dimensions whose size is not one."""
    return [dim for dim in shape if dim != 1]
