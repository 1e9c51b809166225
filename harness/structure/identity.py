"""The identity digest: equal for equivalent implementations of a network, different for different networks.

Each program is rewritten into a canonical form. Operations on which the output does not depend, that change no values, or
that only add or remove dimensions of size one are dropped. In-place forms, functional forms, synonyms and implementations of
global averages are unified. Tensors are identified by their properties and uses, not by name. Two networks with equal
digests compute the same function of the same weights up to rounding.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.graph.form import (
    Argument,
    Graph,
    Operation,
    Program,
    Ref,
    Shape,
    Symbol,
    TensorSpec,
    bind,
    encode_argument,
)
from harness.structure.dataflow import changes_nothing, plain_dims
from harness.structure.field_trace import trace_fields
from harness.structure.pooling import global_averages

_COMMUTATIVE = frozenset({"add", "maximum", "minimum", "mul"})
_PAIRS = ("kernel_size", "stride", "padding", "dilation", "output_size")
# Arguments that affect memory or the choice of kernels, but not the values of the result.
_IMMATERIAL = frozenset(
    {"cudnn_enabled", "memory_format", "pin_memory", "layout", "device", "non_blocking", "copy", "inplace"}
)


@dataclass(eq=False)
class _Node:
    """One node of the canonical form: an operation and its operands."""

    label: str
    inputs: list[_Node]
    tensor: TensorSpec | None = None
    commutes: bool = False
    # Only for zero padding: the number of zeros at the top, bottom, left and right.
    padding: tuple[int, int, int, int] | None = None
    # Only for a permutation: the operand's dimension for each dimension of the result, sizes of one left out.
    order: list[int] | None = None
    signature: str = field(default="", repr=False)


def identity_digest(graph: Graph) -> str:
    """SHA-256 (hex) of the canonical form of a graph's training and evaluation programs."""
    lines: list[str] = [json.dumps(list(graph.input_shape))]
    for program in (graph.train, graph.evaluate):
        lines.append("program")
        lines.extend(_listing(_Canonical(graph, program).output()))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _listing(output: _Node) -> list[str]:
    """The canonical form as lines of text, with nodes numbered in order of first use."""
    numbers: dict[_Node, int] = {}
    lines: list[str] = []

    def visit(node: _Node) -> int:
        if node not in numbers:
            operands = sorted(node.inputs, key=_signature) if node.commutes else node.inputs
            uses = [visit(operand) for operand in operands]
            numbers[node] = len(numbers)
            lines.append(f"{numbers[node]} {node.label} {uses}")
        return numbers[node]

    visit(output)
    return lines


def _signature(node: _Node) -> str:
    """Digest of a node and all its direct and indirect operands, by which operands of commutative operations are sorted."""
    if not node.signature:
        parts = [_signature(operand) for operand in node.inputs]
        text = json.dumps([node.label, sorted(parts) if node.commutes else parts])
        node.signature = hashlib.sha256(text.encode()).hexdigest()
    return node.signature


class _Canonical:
    """Converts one program to canonical form."""

    def __init__(self, graph: Graph, program: Program) -> None:
        self.program = program
        self.averages = global_averages(program, trace_fields(graph, program))
        self.shapes: dict[str, Shape] = {graph.input_name: ("B", *graph.input_shape)}
        self.nodes: dict[str, _Node] = {graph.input_name: _Node("input", [])}
        for spec in graph.tensors:
            node = _Node(f"tensor {json.dumps(spec.facts())}", [], tensor=spec)
            for name in spec.names:
                self.nodes[name] = node
                self.shapes[name] = spec.shape

    def output(self) -> _Node:
        """Convert all operations, and return the node of the program's output."""
        for operation in self.program.operations:
            self.shapes[operation.name] = operation.shape
            node = self._node(operation)
            self.nodes[operation.name] = node
            if operation.kind.in_place and operation.args and isinstance(operation.args[0], Ref):
                self.nodes[operation.args[0].name] = node
        return self.nodes[self.program.output]

    def _node(self, operation: Operation) -> _Node:
        if operation.name in self.averages:
            source = self.nodes[self.averages[operation.name]]
            return _Node("global average", [source])
        name, family = operation.kind.name, operation.kind.family
        bound = {key: value for key, value in bind(operation).items() if key not in _IMMATERIAL}
        first = next((self.nodes[ref] for ref in operation.refs()), None)
        if first is None or not operation.outputs:
            return self._plain(operation, name, bound)
        same_dtype = self._dtype(next(operation.refs())) == operation.outputs[0].dtype
        if changes_nothing(operation, self._source_shape(operation), same_dtype=same_dtype):
            return first
        if family == "reshape":
            return _Node(f"reshape {json.dumps(plain_dims(operation.shape))}", [first])
        if family == "permutation" and name != "movedim":
            return self._permuted(operation, name, bound, first)
        if operation.op == "operator.getitem" and first.label.startswith("max_pool2d") and operation.args[1] == 0:
            return first
        return self._special(operation, name, bound, first) or self._plain(operation, name, bound)

    def _source_shape(self, operation: Operation) -> Shape:
        return self.shapes[next(operation.refs())]

    def _dtype(self, name: str) -> str:
        spec = self.nodes[name].tensor
        if spec is not None:
            return spec.dtype
        return next(
            (op.outputs[0].dtype for op in self.program.operations if op.name == name and op.outputs), "float32"
        )

    def _permuted(self, operation: Operation, name: str, bound: Mapping[str, Argument], first: _Node) -> _Node:
        shape = self._source_shape(operation)
        count = len(shape)
        order = list(range(count))
        dims = bound.get("dims")
        if name == "permute" and isinstance(dims, tuple):
            order = [dim % count for dim in dims if isinstance(dim, int)]
        elif name == "t":
            order.reverse()
        else:
            a, b = bound.get("dim0"), bound.get("dim1")
            if isinstance(a, int) and isinstance(b, int):
                order[a % count], order[b % count] = order[b % count], order[a % count]
        kept = [dim for dim in order if shape[dim] != 1]
        if kept == sorted(kept):
            return first
        ranks = [sorted(kept).index(dim) for dim in kept]
        if first.order is not None:
            # Two permutations in a row are combined; together they may be the identity.
            ranks = [first.order[rank] for rank in ranks]
            first = first.inputs[0]
        return first if ranks == sorted(ranks) else _Node(f"permute {ranks}", [first], order=ranks)

    def _special(self, operation: Operation, name: str, bound: dict[str, Argument], first: _Node) -> _Node | None:
        """The node of an operation that has a special canonical form; None for other operations."""
        match name:
            case "relu" | "relu6":
                return _Node(name, [first])
            case "clamp" | "clamp_min" if bound.get("min") == 0 and bound.get("max") is None:
                return _Node("relu", [first])
            case "threshold" if (bound.get("threshold"), bound.get("value")) == (0, 0):
                return _Node("relu", [first])
            case "hardtanh" if (bound.get("min_val"), bound.get("max_val")) == (0, 6):
                return _Node("relu6", [first])
            case "pad" if bound.get("mode", "constant") == "constant" and bound.get("value") in (None, 0):
                return self._padded(operation, bound, first)
            case "conv2d":
                return self._convolution(bound)
            case "linear" | "matmul" | "mm":
                return self._product(name, bound)
            case _:
                return self._softmax(operation, name, bound, first)

    def _softmax(self, operation: Operation, name: str, bound: Mapping[str, Argument], first: _Node) -> _Node | None:
        """The node of a softmax or log-softmax; the logarithm of a softmax becomes a log-softmax."""
        if name == "log" and first.label.startswith("softmax "):
            return _Node(f"log_{first.label}", first.inputs)
        if name not in ("log_softmax", "softmax"):
            return None
        dim = bound.get("dim")
        place = _plain_index(self._source_shape(operation), dim) if isinstance(dim, int) else dim
        return _Node(f"{name} {place}", [first])

    def _padded(self, operation: Operation, bound: Mapping[str, Argument], first: _Node) -> _Node | None:
        amounts = bound.get("pad")
        if not isinstance(amounts, tuple) or len(amounts) > 4 or len(operation.shape) != 4:  # noqa: PLR2004 - rows and columns of a map
            return None
        left, right, top, bottom = [amount if isinstance(amount, int) else 0 for amount in (*amounts, 0, 0, 0, 0)[:4]]
        padding = (top, bottom, left, right)
        return _Node(f"pad {padding}", [first], padding=padding)

    def _convolution(self, bound: Mapping[str, Argument]) -> _Node:
        source, weight = bound["input"], bound["weight"]
        kernel = self.shapes[weight.name][2:] if isinstance(weight, Ref) else ()
        stride, dilation = _pair(bound.get("stride"), 1), _pair(bound.get("dilation"), 1)
        padding = bound.get("padding")
        if padding == "same":
            totals = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True) if isinstance(k, int)]
            around = [side for total in totals for side in (total // 2, total - total // 2)]
        else:
            rows, columns = (0, 0) if padding == "valid" else _pair(padding, 0)
            around = [rows, rows, columns, columns]
        node = self.nodes[source.name] if isinstance(source, Ref) else _Node("nothing", [])
        if node.padding is not None:
            # A zero padding before the convolution equals a padding of the convolution.
            around = [a + b for a, b in zip(around, node.padding, strict=True)]
            node = node.inputs[0]
        settings = {"stride": stride, "padding": around, "dilation": dilation, "groups": bound.get("groups")}
        operands = [self.nodes[value.name] for value in (weight, bound.get("bias")) if isinstance(value, Ref)]
        return _Node(f"conv2d {json.dumps(settings)}", [node, *operands])

    def _product(self, name: str, bound: Mapping[str, Argument]) -> _Node | None:
        """The node of a linear layer or of a product with a transposed weight matrix, which is equal; None for others."""
        if name == "linear":
            operands = [
                self.nodes[value.name]
                for key in ("input", "weight", "bias")
                if isinstance(value := bound.get(key), Ref)
            ]
            return _Node("linear", operands)
        operands = [
            self.nodes[value.name] for key in ("self", "other", "mat2") if isinstance(value := bound.get(key), Ref)
        ]
        if len(operands) == 2 and operands[1].label == "permute [1, 0]" and operands[1].inputs[0].tensor is not None:  # noqa: PLR2004 - a product's operands
            return _Node("linear", [operands[0], operands[1].inputs[0]])
        return None

    def _plain(self, operation: Operation, name: str, bound: dict[str, Argument]) -> _Node:
        """The node of an operation without a special form: the settings by name and the operands in order."""
        operands: list[_Node] = []

        def described(key: str, value: Argument) -> object:
            if isinstance(value, Ref):
                operands.append(self.nodes[value.name])
                return "*"
            if key in ("dim", "dims") and operation.outputs:
                shape = self._source_shape(operation)
                dims = value if isinstance(value, tuple) else (value,)
                return sorted(str(_plain_index(shape, dim)) for dim in dims if isinstance(dim, int))
            if isinstance(value, tuple) and any(isinstance(item, Ref) for item in value):
                return [described("", item) for item in value]
            if key in _PAIRS and not isinstance(value, Symbol):
                return _pair(value, 0) if value != () or key != "stride" else _pair(bound.get("kernel_size"), 0)
            return float(value) if type(value) is int else encode_argument(value)

        # The first operand is "input" in many operations and "self" in their in-place forms.
        settings = {
            "input" if key == "self" else key: described(key, value) for key, value in bound.items() if key != "keepdim"
        }
        if not bound:
            settings = {str(index): described("", value) for index, value in enumerate(operation.args)}
        commutes = name in _COMMUTATIVE and bound.get("alpha", 1) == 1 and len(operands) == 2  # noqa: PLR2004 - both sides
        label = f"{name} {json.dumps(settings, sort_keys=not commutes)}"
        return _Node(label, operands, commutes=commutes)


def _plain_index(shape: Shape, dim: int) -> int | str:
    """The index of a dimension among the dimensions whose size is not one; ``single`` if its own size is one."""
    if not shape:
        return 0
    place = dim % len(shape)
    return "single" if shape[place] == 1 else sum(1 for size in shape[:place] if size != 1)


def _pair(value: Argument, default: int) -> list[int]:
    if isinstance(value, int):
        return [value, value]
    if isinstance(value, tuple) and value:
        items = [item if isinstance(item, int) else default for item in value]
        return [items[0], items[-1]]
    return [default, default]
