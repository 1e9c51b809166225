"""Which values of a program depend on the images, which on weights alone, and on which the output depends."""

from __future__ import annotations

from harness.graph.form import Graph, Operation, Program, Ref, Shape, bind

# Reductions that, over dimensions of size one, return their operand unchanged.
_REDUCTIONS = frozenset({"amax", "amin", "mean", "prod", "sum"})
_ADAPTIVE_POOLS = frozenset({"adaptive_avg_pool2d", "adaptive_max_pool2d"})
_TAKES_SHAPE = frozenset({"expand_as", "type_as", "view_as"})
# For each operation, the constant second operand with which the result equals the first operand.
_NEUTRAL = {"add": 0, "sub": 0, "mul": 1, "div": 1}


class DataFlow:
    """The data dependencies in one program.

    Attributes:
        graph: the graph of the program.
        program: the program.
        shapes: the shape of every value.
        read: names of the graph's tensors that are operands of an operation.
        from_input: names of the values that depend on the images.
        from_weights: names of the values that depend on the graph's tensors but not on the images.
        on_path: the operations that depend on the images and on which the output depends, in order.
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
        # A size does not depend on pixels, so the dependence on the images is followed through tensor results only.
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
        """Whether every path from the input to the output passes through one of the values in ``names``."""
        reached = {self.graph.input_name}
        for operation in self.program.operations:
            if operation.name in names or operation.name not in self.from_input or _is_zero(operation):
                continue
            if reached.intersection(numbers_read(operation)):
                reached.add(operation.name)
        return self.program.output not in reached

    def is_weighted_convolution(self, operation: Operation) -> bool:
        """Whether an operation is a convolution, transposed or not, with weights as an operand."""
        return operation.kind.family in ("convolution", "transposed convolution") and self._reads_weights(operation)

    def is_weighted_product(self, operation: Operation) -> bool:
        """Whether an operation multiplies by a matrix of weights, as a product or as a sum of elementwise products."""
        if operation.kind.family == "matrix product":
            return self._reads_weights(operation)
        return self.summed_product(operation) is not None

    def summed_product(self, operation: Operation) -> Operation | None:
        """The elementwise product of images and weights whose sum by ``operation`` is a matrix product; None if none is."""
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
    """Whether an operation multiplies by the constant zero, so that the result is always zero."""
    return operation.kind.name == "mul" and 0 in [
        argument for argument in operation.args if isinstance(argument, int | float)
    ]


def numbers_read(operation: Operation) -> list[str]:
    """Operands whose elements an operation reads, each once, without operands of which only the shape is read.

    The second operand of ``view_as``, for example, only gives a shape.
    """
    if operation.kind.family in ("creation", "random creation"):
        return []
    refs = list(dict.fromkeys(operation.refs()))
    return refs[:1] if operation.kind.name in _TAKES_SHAPE else refs


def changes_nothing(operation: Operation, source: Shape, *, same_dtype: bool) -> bool:
    """Whether an operation's result equals the first operand, except for dimensions of size one.

    ``source`` is the shape of the first operand; ``same_dtype`` says whether operand and result have the same dtype.
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
    """The sizes in a shape, without sizes of one."""
    return [dim for dim in shape if dim != 1]
