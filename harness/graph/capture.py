"""`nn.Module` -> `Graph`: what the model runs, taken by `torch.export` in training and in evaluation mode.

The ATen operations are kept as `torch.export` gives them, undecomposed, so that a rebuilt module repeats the original bit for
bit. What depends on the machine and not on the model (the device of a created tensor, whether cuDNN is on) becomes a runtime
symbol, so that captures on different machines and torch versions agree.
"""

from __future__ import annotations

import io
import logging
import random
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch.export import Dim as ExportDim
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.nn import functional
from torch.nn.parameter import is_lazy

from harness.errors import CaptureError, GraphFormatError
from harness.graph.form import (
    RUNTIME_CUDNN,
    RUNTIME_DEVICE,
    Argument,
    DeclaredModule,
    Graph,
    Operation,
    Program,
    Ref,
    Symbol,
    TensorKind,
    TensorSpec,
    ValueMeta,
)
from harness.graph.form import Dim as GraphDim
from harness.graph.rebuild import GraphModule, content_digest

# Large enough that batch statistics over a 1x1 map exist, small enough to cost nothing.
_EXAMPLE_BATCH = 4
_PROBE_SEED = 20_011
_IMAGE_BATCH_DIMS = 4

# Operations that only check or annotate; they compute nothing.
_INERT = frozenset(
    {
        "aten._assert_scalar.default",
        "aten._assert_tensor_metadata.default",
        "aten.sym_constrain_range.default",
        "aten.sym_constrain_range_for_size.default",
    }
)
# Positions of the `cudnn_enabled` argument, which states a setting of the machine.
_CUDNN_ARGUMENT = {"aten.batch_norm.default": 8, "aten.instance_norm.default": 8}


OtherSize = Literal["refused", "one answer each", "other answers"]


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """Whether the captured graph stands for the module: the eager module and the graph compared, bit for bit.

    Args:
        repeatable: two captures gave the same graph and constants.
        eval_equal: equal outputs in evaluation mode.
        train_equal: equal outputs and buffers after one training-mode pass from the same random state.
        other_size: what the eager module makes of images four pixels larger: ``refused`` with an error, ``one answer each``, or
            ``other answers``: more or fewer than there are images.
        differences: a sentence for each that does not hold.
    """

    repeatable: bool = True
    eval_equal: bool = True
    train_equal: bool = True
    other_size: OtherSize = "refused"
    differences: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether all three hold."""
        return self.repeatable and self.eval_equal and self.train_equal


@dataclass(frozen=True, kw_only=True, eq=False)
class CapturedModel:
    """A model as the examiner holds it: its graph, its initial tensors, and how faithful the capture is.

    Args:
        name: what the user called it.
        graph: the captured graph.
        state: every parameter, buffer and constant of the graph by name, on the CPU.
        fidelity: the comparison with the eager module.
    """

    name: str
    graph: Graph
    state: Mapping[str, torch.Tensor]
    fidelity: Fidelity

    def to_module(self) -> GraphModule:
        """A fresh trainable module with its own copy of the tensors."""
        return GraphModule(self.graph, self.state)


@contextmanager
def computing_threads(number: int) -> Iterator[None]:
    """Compute on so many threads meanwhile.

    One is best for networks as small as these: they only wait for a second one, on a busy machine for seconds.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def capture(
    module: nn.Module, input_shape: tuple[int, ...] = (1, 28, 28), *, name: str, twice: bool = True
) -> CapturedModel:
    """Capture a module in both modes and compare the result with the module itself.

    The module's parameters, buffers and modes are left as they were, and so is the random state of Python, NumPy and torch.
    Lazy modules get their shapes.

    Args:
        module: the model; must map a float batch ``(B, *input_shape)`` to one tensor.
        input_shape: shape of one input, without the batch dimension.
        name: what to call the model in messages.
        twice: capture it a second time, to see that nothing of the first was a draw. Without, it is taken as repeatable.

    Raises:
        CaptureError: the module fails on such an input, returns something else than one tensor, fixes the batch size, or
            depends on values in a way that no graph can hold, or runs an operation that is not allowed.
    """
    generator = torch.Generator().manual_seed(_PROBE_SEED)
    example = torch.randn((_EXAMPLE_BATCH, *input_shape), generator=generator)
    with warnings.catch_warnings(), computing_threads(1), _modes_and_randomness_restored(module):
        warnings.simplefilter("ignore")
        if any(is_lazy(tensor) for tensor in (*module.parameters(), *module.buffers())):
            _require_runs(module, example, name, training=False)
        before = _held_tensors(module)
        try:
            _require_runs(module, example, name, training=True)
            _require_runs(module, example, name, training=False)
            graph, constants = _capture_once(module, example, name)
            state = before | constants
            repeatable = True
            if twice:
                again, constants_again = _capture_once(module, example, name)
                repeatable = graph.exact_digest() == again.exact_digest() and _equal_tensors(constants, constants_again)
            fidelity = _compare(module, graph, state, example, repeatable=repeatable)
        except GraphFormatError as error:
            msg = f"{name} cannot be captured: {error}"
            raise CaptureError(msg) from error
        finally:
            _restore(module, before)
    return CapturedModel(name=name, graph=graph, state=state, fidelity=fidelity)


@contextmanager
def _modes_and_randomness_restored(module: nn.Module) -> Iterator[None]:
    modes = [(child, child.training) for child in module.modules()]
    # The old global generator of NumPy is the one that a model's forward would draw from.
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        for child, training in modes:
            child.training = training


@contextmanager
def _silent_torch() -> Iterator[None]:
    """A failing export prints and logs the graph so far; the exception says what there is to say."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(level)


def _restore(module: nn.Module, before: Mapping[str, torch.Tensor]) -> None:
    """Put parameters and buffers back as they were: a training-mode pass moves the running statistics."""
    held = _Held(module)
    with torch.no_grad():
        for key, names in held.names.items():
            held.tensors[key].copy_(before[names[0]])


def _require_runs(module: nn.Module, example: torch.Tensor, name: str, *, training: bool) -> None:
    words = "training" if training else "evaluation"
    try:
        output = module.train(training)(example)
    except Exception as error:
        msg = (
            f"{name} fails in {words} mode on a batch of shape {tuple(example.shape)}: "
            f"{type(error).__name__}: {_first_line(error)}. Expected a model that takes images of that shape."
        )
        raise CaptureError(msg) from error
    if not isinstance(output, torch.Tensor):
        msg = f"{name} returns {type(output).__name__} in {words} mode: expected one tensor of shape (batch, classes)"
        raise CaptureError(msg)


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else "no message").rstrip(".")[:300]


def _capture_once(module: nn.Module, example: torch.Tensor, name: str) -> tuple[Graph, dict[str, torch.Tensor]]:
    held = _Held(module)
    train, train_constants, input_name = _export(module.train(), example, held, name)
    evaluate, eval_constants, eval_input = _export(module.eval(), example, held, name)
    evaluate = _renamed_program(evaluate, {eval_input: input_name})
    # The two exports number their literals independently: the same name with other content becomes a second constant.
    clashes = {
        key: f"{key}_eval"
        for key, value in eval_constants.items()
        if key in train_constants and not _same_tensor(train_constants[key], value)
    }
    evaluate = _renamed_program(evaluate, clashes)
    constants = train_constants | {clashes.get(key, key): value for key, value in eval_constants.items()}
    specs = [
        *held.specs(),
        *(
            TensorSpec(
                name=key,
                kind="constant",
                shape=tuple(value.shape),
                dtype=_dtype_name(value.dtype),
                content=content_digest(value),
                persistent=False,
            )
            for key, value in constants.items()
        ),
    ]
    graph = Graph(
        input_shape=tuple(example.shape[1:]),
        input_name=input_name,
        tensors=tuple(specs),
        modules=_declared_modules(module),
        train=train,
        evaluate=evaluate,
        torch_version=torch.__version__,
    )
    return graph, constants


class _Held:
    """The parameters and buffers of a module, shared ones once, with every name they go by."""

    def __init__(self, module: nn.Module) -> None:
        self.names: dict[int, list[str]] = {}
        self.tensors: dict[int, torch.Tensor] = {}
        self.kinds: dict[int, TensorKind] = {}
        kinds: tuple[tuple[TensorKind, Iterator[tuple[str, torch.Tensor]]], ...] = (
            ("parameter", module.named_parameters(remove_duplicate=False)),
            ("buffer", module.named_buffers(remove_duplicate=False)),
        )
        for kind, named in kinds:
            for name, tensor in named:
                self.names.setdefault(id(tensor), []).append(name)
                self.tensors[id(tensor)] = tensor
                self.kinds[id(tensor)] = kind
        self.persistent = set(module.state_dict(keep_vars=True))
        self.canonical = {name: names[0] for names in self.names.values() for name in names}

    def specs(self) -> list[TensorSpec]:
        return [
            TensorSpec(
                name=names[0],
                kind=self.kinds[key],
                shape=tuple(self.tensors[key].shape),
                dtype=_dtype_name(self.tensors[key].dtype),
                requires_grad=self.tensors[key].requires_grad,
                aliases=tuple(names[1:]),
                persistent=names[0] in self.persistent,
            )
            for key, names in self.names.items()
        ]


def _held_tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    held = _Held(module)
    return {names[0]: held.tensors[key].detach().cpu().clone() for key, names in held.names.items()}


def _declared_modules(module: nn.Module) -> tuple[DeclaredModule, ...]:
    counted: set[int] = set()
    declared = []
    for path, child in module.named_modules():
        own = [parameter for parameter in child.parameters(recurse=False) if id(parameter) not in counted]
        counted.update(id(parameter) for parameter in own)
        elements = sum(parameter.numel() for parameter in own)
        declared.append(DeclaredModule(path=path, type=type(child).__name__, parameters=elements))
    return tuple(declared)


def _export(
    module: nn.Module, example: torch.Tensor, held: _Held, name: str
) -> tuple[Program, dict[str, torch.Tensor], str]:
    mode = "training" if module.training else "evaluation"
    try:
        with _silent_torch():
            exported = torch.export.export(module, (example,), dynamic_shapes=({0: ExportDim("batch")},), strict=False)
    except Exception as error:
        reason = _first_line(error)
        if "batch" in str(error) and ("specializ" in str(error) or "constant" in str(error)):
            reason = (
                f"it fixes the batch size to {_EXAMPLE_BATCH}, the size of the example; write -1 or x.size(0) there"
            )
        if "data-dependent" in str(error):
            reason = (
                "what it runs depends on the values of the images (an if, a loop or a size); write it with torch.where"
            )
        msg = f"{name} cannot be captured in {mode} mode: {reason}"
        raise CaptureError(msg) from error
    return _Translation(exported, held, f"{name} cannot be captured in {mode} mode").run()


class _Translation:
    """One exported program, turned into a `Program`."""

    def __init__(self, exported: ExportedProgram, held: _Held, complaint: str) -> None:
        self.exported = exported
        self.held = held
        self.complaint = complaint
        self.names: dict[torch.fx.Node, str] = {}
        self.constants: dict[str, torch.Tensor] = {}
        self.batch: Any = None

    def run(self) -> tuple[Program, dict[str, torch.Tensor], str]:
        input_name = self._read_inputs()
        operations = []
        output = ""
        for node in self.exported.graph.nodes:
            if node.op == "call_function":
                operation = self._operation(node)
                if operation is not None:
                    operations.append(operation)
            elif node.op == "output":
                output = self._output(node)
            elif node.op == "get_attr":
                self._refuse("it holds a nested block (torch.no_grad or autocast inside forward, or control flow)")
        program = Program(operations=_without_unused_sizes(operations, output), output=output)
        return program, self.constants, input_name

    def _refuse(self, reason: str) -> None:
        msg = f"{self.complaint}: {reason}"
        raise CaptureError(msg)

    def _read_inputs(self) -> str:
        specs = {spec.arg.name: spec for spec in self.exported.graph_signature.input_specs}
        input_name = ""
        for node in self.exported.graph.find_nodes(op="placeholder"):
            spec = specs[node.name]
            if spec.kind is InputKind.USER_INPUT:
                input_name = self.names[node] = node.name
                self.batch = node.meta["val"].shape[0]
            elif spec.kind in (InputKind.PARAMETER, InputKind.BUFFER):
                self.names[node] = self.held.canonical[str(spec.target)]
            elif spec.kind is InputKind.CONSTANT_TENSOR:
                name = f"constant.{spec.target}"
                self.names[node] = name
                if node.users:
                    self.constants[name] = self.exported.constants[str(spec.target)].detach().cpu().clone()
            else:
                self._refuse(f"it holds an input of kind {spec.kind.name}, which is no tensor")
        return input_name

    def _operation(self, node: torch.fx.Node) -> Operation | None:
        op = _op_name(node.target)
        if op in _INERT:
            return None
        arguments = [self._argument(argument) for argument in node.args]
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
            yield ValueMeta(shape=shape, dtype=_dtype_name(value.dtype))
        elif isinstance(value, list | tuple):
            for item in value:
                yield from self._metas(item)

    def _dim(self, dim: object) -> GraphDim:
        if isinstance(dim, int):
            return dim
        expression = dim.node.expr  # type: ignore[attr-defined]  # a SymInt; its type is private to torch
        batch = self.batch.node.expr
        if expression.free_symbols - {batch}:
            self._refuse("a size in it depends on the values of the images")
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
                return Symbol("dtype", _dtype_name(argument))
            case torch.device():
                return RUNTIME_DEVICE
            case torch.layout():
                return Symbol("layout", str(argument).removeprefix("torch."))
            case torch.memory_format():
                return Symbol("memory_format", str(argument).removeprefix("torch."))
            case _:
                self._refuse(f"an operation takes an argument of type {type(argument).__name__}")
                raise AssertionError  # pragma: no cover - _refuse raises

    def _output(self, node: torch.fx.Node) -> str:
        specs = self.exported.graph_signature.output_specs
        results = node.args[0]
        if len(specs) != 1 or specs[0].kind is not OutputKind.USER_OUTPUT or not isinstance(results, list | tuple):
            self._refuse(f"expected one tensor as its result, found {len(specs)} results")
        result = results[0]  # type: ignore[index]  # a list or tuple: tested above
        if not isinstance(result, torch.fx.Node):
            self._refuse("its result is a constant")
        return self.names[result]  # type: ignore[index]  # a Node: tested above


def _op_name(target: object) -> str:
    if isinstance(target, torch._ops.OpOverload):  # noqa: SLF001 - torch has no public name for the type
        return str(target)
    module = getattr(target, "__module__", "unknown").lstrip("_")
    return f"{module}.{getattr(target, '__name__', str(target))}"


def _dtype_name(dtype: torch.dtype) -> str:
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
    """Drop size computations that nothing reads: `torch.export` leaves them behind or not, depending on its version."""
    kept: list[Operation] = []
    read = {output}
    for operation in reversed(operations):
        if operation.outputs or operation.name in read:
            kept.append(operation)
            read.update(operation.refs())
    return tuple(reversed(kept))


def _renamed_program(program: Program, names: Mapping[str, str]) -> Program:
    names = {old: new for old, new in names.items() if old != new}
    if not names:
        return program

    def renamed(argument: Argument) -> Argument:
        if isinstance(argument, Ref):
            return Ref(names.get(argument.name, argument.name))
        if isinstance(argument, tuple):
            return tuple(renamed(item) for item in argument)
        return argument

    return Program(
        operations=tuple(
            Operation(
                name=operation.name,
                op=operation.op,
                args=tuple(renamed(argument) for argument in operation.args),
                kwargs={key: renamed(value) for key, value in operation.kwargs.items()},
                outputs=operation.outputs,
                module=operation.module,
                module_type=operation.module_type,
            )
            for operation in program.operations
        ),
        output=names.get(program.output, program.output),
    )


def _same_tensor(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal to the bit, NaN included."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return bool(((a == b) | (a.isnan() & b.isnan())).all())


def _equal_tensors(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(_same_tensor(a[key], b[key]) for key in a)


def _other_size(module: nn.Module, example: torch.Tensor) -> OtherSize:
    """What the module makes of larger images: a ``view(-1, classes)`` would turn the extra positions into extra answers."""
    larger = functional.pad(example, (2, 2, 2, 2)) if example.ndim == _IMAGE_BATCH_DIMS else example
    try:
        with torch.no_grad():
            answers = module.eval()(larger)
    except Exception:  # noqa: BLE001 - whatever the model raises, it refuses
        return "refused"
    return "one answer each" if answers.shape[:1] == larger.shape[:1] else "other answers"


def _compare(
    module: nn.Module, graph: Graph, state: Mapping[str, torch.Tensor], example: torch.Tensor, *, repeatable: bool
) -> Fidelity:
    differences = []
    if not repeatable:
        differences.append("two captures of the model differ: forward draws from Python, or keeps a count of its calls")
    outcomes = {}
    for mode in ("eval", "train"):
        _restore(module, state)
        rebuilt = GraphModule(graph, state)
        buffers = dict(rebuilt.named_buffers(remove_duplicate=False))
        results = []
        for candidate in (module, rebuilt):
            candidate.train(mode == "train")
            torch.manual_seed(_PROBE_SEED)
            with torch.no_grad():
                results.append(candidate(example))
        outcomes[mode] = _same_tensor(*results) and all(
            _same_tensor(tensor, buffers[name]) for name, tensor in module.named_buffers()
        )
        if not outcomes[mode]:
            size = (
                f"by up to {(results[0] - results[1]).abs().max().item():.3g}"
                if results[0].shape == results[1].shape
                else f"in shape: {tuple(results[0].shape)} against {tuple(results[1].shape)}"
            )
            differences.append(f"in {mode} mode the model's output differs from its captured graph's {size}")
    return Fidelity(
        repeatable=repeatable,
        eval_equal=outcomes["eval"],
        train_equal=outcomes["train"],
        other_size=_other_size(module, example),
        differences=tuple(differences),
    )
