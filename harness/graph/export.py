"""Convert the operations of a module in one mode to a `Program`, using `torch.export`.

The ATen operations are kept as exported, without decomposition, so that a rebuilt module matches the original bit for
bit. Arguments that depend on the machine and not on the model (the device of a created tensor, whether cuDNN is enabled)
are replaced by runtime symbols, so that captures on different machines give equal graphs.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.export import Dim as ExportDim
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind

from harness.errors import CaptureError, GraphFormatError
from harness.graph.form import RUNTIME_CUDNN, RUNTIME_DEVICE, Argument, Operation, Program, Ref, Symbol, ValueMeta
from harness.graph.form import Dim as GraphDim
from harness.graph.obstacles import READS_NUMBER, why_not_exported
from harness.graph.places import place_in_stack
from harness.graph.rebuild import resolve

# Operations that only check or annotate; they compute nothing.
_INERT = frozenset(
    f"aten.{name}.default"
    for name in ("_assert_scalar", "_assert_tensor_metadata", "sym_constrain_range", "sym_constrain_range_for_size")
)
# Positions of the `cudnn_enabled` argument, which states a setting of the machine.
_CUDNN_ARGUMENT = {"aten.batch_norm.default": 8, "aten.instance_norm.default": 8}


def export_program(
    module: nn.Module, example: torch.Tensor, names: Mapping[str, str], name: str, *, mode: str
) -> tuple[Program, dict[str, torch.Tensor], str]:
    """Export a module in the current mode for any batch size; return the program, its constants and its input's name.

    ``example`` is a batch of images ``(B, *input_shape)``. ``names`` maps each name of a parameter or buffer, of which a
    shared tensor has several, to the one name used in the graph. Messages contain the model's ``name`` and the ``mode``.

    Raises:
        CaptureError: the model accepts only certain batch sizes, chooses operations by the values of the images, or runs
            an operation that a graph cannot hold.
    """
    complaint = f"{name} cannot be captured in {mode} mode"
    with _silent_torch():
        try:
            shapes = ({0: ExportDim("batch")},)
            exported = torch.export.export(module, (example.clone(),), dynamic_shapes=shapes, strict=False)
        except Exception as error:
            msg = f"{complaint}: {why_not_exported(error, module, example)}"
            raise CaptureError(msg) from error
    return _Translation(exported, names, complaint).run()


class _Translation:
    """Translates one exported program to a `Program`."""

    def __init__(self, exported: ExportedProgram, tensor_names: Mapping[str, str], complaint: str) -> None:
        self.exported = exported
        self.tensor_names = tensor_names
        self.complaint = complaint
        self.names: dict[torch.fx.Node, str] = {}
        self.constants: dict[str, torch.Tensor] = {}
        self.batch: Any = None
        # The location, in the user's own file, of the operation that is being translated.
        self.place = ""
        self.places: dict[str, str] = {}

    def run(self) -> tuple[Program, dict[str, torch.Tensor], str]:
        input_name = self._read_inputs()
        operations = []
        output = ""
        for node in self.exported.graph.nodes:
            if node.op == "call_function":
                self.place = place_in_stack(node.meta.get("stack_trace"))
                operation = self._operation(node)
                if operation is not None:
                    operations.append(operation)
            elif node.op == "output":
                output = self._output(node)
            elif node.op == "get_attr":
                self._refuse_block(node)
        program = Program(operations=_without_unused_sizes(operations, output), output=output)
        for operation in program.operations:
            if operation.kind.name == "item":
                self._refuse(READS_NUMBER.format(place=self.places[operation.name]))
            try:
                resolve(operation.op, self.places[operation.name])
            except GraphFormatError as error:
                self._refuse(str(error))
        return program, self.constants, input_name

    def _refuse(self, reason: str) -> None:
        msg = f"{self.complaint}: {reason}"
        raise CaptureError(msg)

    def _refuse_block(self, node: torch.fx.Node) -> None:
        """Raise an error for a nested subgraph; its location is read from the stack trace of a nearby operation."""
        kind = " ".join(str(user.target) for user in node.users)
        near = [found for user in node.users for found in (*user.users, user)]
        place = next(filter(None, (place_in_stack(other.meta.get("stack_trace")) for other in near)), "")
        if "set_grad_enabled" in kind:
            self._refuse(f"forward contains a torch.no_grad block{place}: use x.detach() in place of the block")
        if "autocast" in kind:
            self._refuse(
                f"forward contains an autocast block{place}: remove the block, and choose the precision of the training, "
                "such as by --engine bf16"
            )
        self._refuse(f"forward contains control flow ({kind}){place}: use torch.where in place of control flow")

    def _read_inputs(self) -> str:
        specs = {spec.arg.name: spec for spec in self.exported.graph_signature.input_specs}
        input_name = ""
        for node in self.exported.graph.find_nodes(op="placeholder"):
            spec = specs[node.name]
            if spec.kind is InputKind.USER_INPUT:
                input_name = self.names[node] = node.name
                self.batch = node.meta["val"].shape[0]
            elif spec.kind in (InputKind.PARAMETER, InputKind.BUFFER):
                if spec.target not in self.tensor_names:
                    self._refuse(f"torch.export returned a tensor {spec.target!r}, which the model does not have")
                self.names[node] = self.tensor_names[str(spec.target)]
            elif spec.kind is InputKind.CONSTANT_TENSOR:
                name = f"constant.{spec.target}"
                self.names[node] = name
                if node.users:
                    self.constants[name] = self.exported.constants[str(spec.target)].detach().cpu().clone()
            else:
                self._refuse(
                    "expected only images, parameters, buffers and constant tensors as inputs of the exported program, "
                    f"got an input of kind {spec.kind.name}"
                )
        return input_name

    def _operation(self, node: torch.fx.Node) -> Operation | None:
        op = _op_name(node.target)
        if op in _INERT:
            return None
        self.places[node.name] = self.place
        arguments = [self._argument(argument) for argument in node.args]
        if op == "aten.numpy_T.default":
            # x.T is exported as an operation of its own, but is a permutation.
            op, order = "aten.permute.default", tuple(reversed(range(node.meta["val"].ndim)))
            arguments.append(order)
        if op in _CUDNN_ARGUMENT and len(arguments) > _CUDNN_ARGUMENT[op]:
            arguments[_CUDNN_ARGUMENT[op]] = RUNTIME_CUDNN
        kwargs = {
            key: self._argument(value)
            for key, value in node.kwargs.items()
            if key != "pin_memory" and value is not None
        }
        path, type_name = _submodule(node)
        self.names[node] = node.name
        return Operation(
            name=node.name,
            op=op,
            args=tuple(arguments),
            kwargs=kwargs,
            outputs=tuple(self._metas(node.meta.get("val"))),
            module=path,
            module_type=type_name,
        )

    def _metas(self, value: object) -> Iterator[ValueMeta]:
        if isinstance(value, torch.Tensor):
            shape = tuple(self._dim(dim) for dim in value.shape)
            yield ValueMeta(shape=shape, dtype=dtype_name(value.dtype))
        elif isinstance(value, list | tuple):
            for item in value:
                yield from self._metas(item)

    def _dim(self, dim: object) -> GraphDim:
        if isinstance(dim, int):
            return dim
        expression = dim.node.expr  # type: ignore[attr-defined]  # a SymInt; its type is private to torch
        batch = self.batch.node.expr
        if expression.free_symbols - {batch}:
            self._refuse(
                f"the shape of a tensor depends on the values of the images{self.place}: compute with tensors of a fixed "
                "shape, such as by torch.where or a product with a mask"
            )
        return str(expression).replace(str(batch), "B").replace(" ", "")

    def _argument(self, argument: object) -> Argument:
        match argument:
            case torch.fx.Node():
                return Ref(self.names[argument])
            case None | bool() | int() | str():
                return argument
            case float():
                return argument if abs(argument) < float("inf") else Symbol("float", str(argument))
            case list() | tuple():
                return tuple(self._argument(item) for item in argument)
            case torch.dtype():
                return Symbol("dtype", dtype_name(argument))
            case torch.device():
                return RUNTIME_DEVICE
            case torch.layout():
                return Symbol("layout", str(argument).removeprefix("torch."))
            case torch.memory_format():
                return Symbol("memory_format", str(argument).removeprefix("torch."))
            case _:
                self._refuse(
                    f"an operation{self.place} has an argument of type {type(argument).__name__}: expected tensors, numbers, "
                    "strings and settings of torch, such as dtypes"
                )
                raise AssertionError  # pragma: no cover - _refuse raises

    def _output(self, node: torch.fx.Node) -> str:
        specs = self.exported.graph_signature.output_specs
        results = node.args[0]
        if len(specs) != 1 or specs[0].kind is not OutputKind.USER_OUTPUT or not isinstance(results, list | tuple):
            self._refuse(f"expected forward to return one new tensor, got {len(specs)} results or changed inputs")
        result = results[0]  # type: ignore[index]  # a list or tuple: tested above
        if not isinstance(result, torch.fx.Node):
            self._refuse("expected forward to return a tensor computed from the images, got a constant")
        return self.names[result]  # type: ignore[index]  # a Node: tested above


def _op_name(target: object) -> str:
    if isinstance(target, torch._ops.OpOverload):  # noqa: SLF001 - torch has no public name for the type
        return str(target)
    module = getattr(target, "__module__", "unknown").lstrip("_")
    return f"{module}.{getattr(target, '__name__', str(target))}"


def dtype_name(dtype: torch.dtype) -> str:
    """The name that a graph uses for a dtype, such as ``float32``."""
    return str(dtype).removeprefix("torch.")


def _submodule(node: torch.fx.Node) -> tuple[str, str]:
    stack = node.meta.get("nn_module_stack") or {}
    entries = [entry for entry in stack.values() if not str(entry[0]).startswith("_empty_nn_module_stack")]
    if not entries:
        return "", ""
    path, kind = entries[-1]
    type_name = kind if isinstance(kind, str) else getattr(kind, "__qualname__", str(kind))
    # A module called a second time is marked "name@1" by torch.
    return str(path).split("@")[0], type_name.rsplit(".", 1)[-1]


def _without_unused_sizes(operations: list[Operation], output: str) -> tuple[Operation, ...]:
    """Drop operations on sizes whose result is not used, which only some versions of `torch.export` leave in a program."""
    kept: list[Operation] = []
    read = {output}
    for operation in reversed(operations):
        if operation.outputs or operation.name in read:
            kept.append(operation)
            read.update(operation.refs())
    return tuple(reversed(kept))


def renamed_program(program: Program, names: Mapping[str, str]) -> Program:
    """Return a copy of the program in which each reference to a key of ``names`` refers to the mapped name instead."""

    def renamed(argument: Argument) -> Argument:
        if isinstance(argument, Ref):
            return Ref(names.get(argument.name, argument.name))
        if isinstance(argument, tuple):
            return tuple(renamed(item) for item in argument)
        return argument

    return Program(
        operations=tuple(
            replace(
                operation,
                args=tuple(renamed(argument) for argument in operation.args),
                kwargs={key: renamed(value) for key, value in operation.kwargs.items()},
            )
            for operation in program.operations
        ),
        output=names.get(program.output, program.output),
    )


@contextmanager
def _silent_torch() -> Iterator[None]:
    """Suppress what a failing `torch.export` prints and logs; the raised exception contains the reason."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(level)
