"""Rebuilding: a graph and its tensors run bit for bit as the module they came from, and nothing else runs."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.errors import GraphFormatError
from harness.graph import CapturedModel, Graph, GraphModule, Operation, Program, TensorSpec, capture
from harness.graph.form import Argument, Ref, Symbol, ValueMeta
from harness.sources import DEFAULT_SEED
from mnist_models import create_model, list_models
from tests.made_up import EVERY_NETWORK

Shipped = Callable[[str], CapturedModel]
IMAGES = torch.randn(3, 1, 28, 28, generator=torch.Generator().manual_seed(5))


# Normalisation, shortcuts with a gate, one dropout called three times, none of either; `tox -e thorough` takes all.
SAMPLE = list_models() if EVERY_NETWORK else ("reference", "cloud_3", "five_step_2", "rf_study_1")


def original(name: str) -> nn.Module:
    """A shipped model with the weights that its capture was made with."""
    torch.manual_seed(DEFAULT_SEED)
    return create_model(name)


def passed(module: nn.Module, *, training: bool) -> tuple[Tensor, dict[str, Tensor]]:
    """The outputs of one pass from a fixed random state, and the tensors after it."""
    torch.manual_seed(11)
    with torch.no_grad():
        answers = module.train(training)(IMAGES)
    return answers, module.state_dict()


@pytest.mark.parametrize("name", SAMPLE)
def test_shipped_models_run_alike(name: str, shipped: Shipped) -> None:
    """Graph and original give the same bits in both modes, under the same names."""
    eager, rebuilt = original(name), shipped(name).to_module()
    for training in (False, True):
        expected, tensors = passed(eager, training=training)
        found, rebuilt_tensors = passed(rebuilt, training=training)
        assert torch.equal(expected, found)
        assert tensors.keys() == rebuilt_tensors.keys()
        assert all(torch.equal(tensors[key], rebuilt_tensors[key]) for key in tensors)


def trained(module: nn.Module) -> list[Tensor]:
    """Parameters and buffers after 20 steps of SGD from a fixed random state."""
    torch.manual_seed(7)
    module.train()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9)
    for _ in range(20):
        optimizer.zero_grad()
        answers = module(torch.randn(4, 1, 28, 28))
        torch.autograd.backward(functional.nll_loss(answers, torch.randint(10, (4,))))
        optimizer.step()
    return [tensor.detach() for tensor in (*module.parameters(), *module.buffers())]


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", SAMPLE)
def test_training_is_bit_equal(name: str, shipped: Shipped) -> None:
    """After 20 training steps from the same state every parameter and buffer has the same bits."""
    before = shipped(name).to_module()
    expected, found = trained(original(name)), trained(shipped(name).to_module())
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    assert not torch.equal(next(before.parameters()), found[0])


def test_a_rebuilt_module_is_an_ordinary_module(shipped: Shipped) -> None:
    """It can be copied and moved, keeps its mode, loads the original's state dict, and shares nothing with its source."""
    model = shipped("reference")
    rebuilt = model.to_module()
    twin = copy.deepcopy(rebuilt).to("cpu")
    expected, _ = passed(rebuilt, training=False)
    with torch.no_grad():
        next(rebuilt.parameters()).zero_()
    assert torch.equal(expected, passed(twin, training=False)[0])
    assert not torch.equal(expected, passed(rebuilt, training=False)[0])
    rebuilt.load_state_dict(original("reference").state_dict())
    assert torch.equal(expected, passed(rebuilt, training=False)[0])
    assert torch.equal(expected, passed(model.to_module(), training=False)[0])
    assert rebuilt.train().training
    assert not torch.equal(expected, passed(rebuilt, training=True)[0])
    assert torch.float64 == rebuilt.eval().double()(IMAGES.double()).dtype


def test_another_image_size_is_refused(shipped: Shipped) -> None:
    """Images of another size are an error, and no extra rows."""
    with pytest.raises(ValueError, match=r"expected images of shape \[1, 28, 28\], got images of shape \[1, 32, 32\]"):
        shipped("reference").to_module()(torch.zeros(2, 1, 32, 32))


def test_values_can_be_traced_and_changed(shipped: Shipped) -> None:
    """A trace holds every value as it was when it was made; a changed value changes what follows."""
    rebuilt = shipped("reference").to_module().eval()
    program = rebuilt.graph.evaluate
    values = rebuilt.trace(IMAGES)
    assert torch.equal(rebuilt(IMAGES), values[program.output])
    first = next(operation.name for operation in program.operations if operation.op == "aten.conv2d.default")
    assert torch.equal(values[program.output], rebuilt.run_with(IMAGES, {first: lambda value: value}))
    assert not torch.equal(values[program.output], rebuilt.run_with(IMAGES, {first: torch.zeros_like}))


class Named(nn.Module):
    """A network whose parts go by names that a rebuilt module uses itself."""

    def __init__(self) -> None:
        super().__init__()
        self.graph = nn.Linear(4, 4)
        self.trace = nn.BatchNorm1d(4)
        self.register_buffer("run_with", torch.ones(4), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Linear, normalised, scaled."""
        return torch.mul(self.trace(self.graph(images.flatten(1))), self.get_buffer("run_with"))


def test_names_are_free() -> None:
    """Modules and buffers may be called what a rebuilt module calls its own; unkept buffers stay out of its state dict."""
    module = Named()
    model = capture(module, (1, 2, 2), name="named")
    assert model.fidelity.holds
    assert set(module.state_dict()) == set(model.to_module().state_dict())


IMAGE = ValueMeta(shape=("B", 1, 2, 2), dtype="float32")


def graph_of(op: str, *arguments: Argument, gives: tuple[ValueMeta, ...] = (IMAGE,), **keywords: Argument) -> Graph:
    """A graph of one operation on a 1x2x2 image and a parameter ``w`` of 2x2."""
    operation = Operation(name="y", op=op, args=arguments, kwargs=keywords, outputs=gives)
    program = Program(operations=(operation,), output="y")
    return Graph(
        input_shape=(1, 2, 2),
        input_name="x",
        tensors=(TensorSpec(name="w", kind="parameter", shape=(2, 2), dtype="float32"),),
        modules=(),
        train=program,
        evaluate=program,
        torch_version="",
    )


STATE: Mapping[str, Tensor] = {"w": torch.eye(2)}


@pytest.mark.parametrize(
    "op",
    [
        "aten.from_file.default",
        "aten.set_.source_Tensor",
        "aten.resize_.default",
        "prims.device_put.default",
        "mylib.relu.default",
        "aten.relu",
        "aten.relu.default.more",
        "builtins.eval",
        "os.system",
        "operator.attrgetter",
        "",
    ],
)
def test_an_operation_off_the_list_is_refused(op: str) -> None:
    """An operation that is not on the allow-list is named and never looked up."""
    with pytest.raises(GraphFormatError, match=re.escape(f"operation {op!r} is not on the allow-list")):
        GraphModule(graph_of(op, Ref("x")), STATE)


def test_operations_on_the_list_run() -> None:
    """An allowed operation runs with its arguments, symbols filled in."""
    graph = graph_of("aten.add.Tensor", Ref("x"), Ref("w"), alpha=2)
    assert torch.equal(2 * torch.eye(2).expand(3, 1, 2, 2), GraphModule(graph, STATE)(torch.zeros(3, 1, 2, 2)))
    graph = graph_of(
        "aten.zeros_like.default",
        Ref("x"),
        gives=(ValueMeta(shape=("B", 1, 2, 2), dtype="int64"),),
        dtype=Symbol("dtype", "int64"),
        device=Symbol("runtime", "device"),
    )
    assert torch.int64 == GraphModule(graph, STATE)(torch.ones(1, 1, 2, 2)).dtype
    graph = graph_of("aten.mul.Scalar", Ref("x"), Symbol("float", "inf"))
    assert bool(GraphModule(graph, STATE)(torch.ones(1, 1, 2, 2)).isinf().all())


@pytest.mark.parametrize(
    ("graph", "state", "words"),
    [
        (graph_of("aten.relu.imaginary", Ref("x")), STATE, r"'aten.relu.imaginary' does not exist in torch"),
        (graph_of("aten.mul.out", Ref("x"), Ref("w"), out=Ref("w")), STATE, "'aten.mul.out' writes its result into"),
        (graph_of("aten.max.dim_max", Ref("x"), 1, max=Ref("w")), STATE, "'aten.max.dim_max' writes its result into"),
        (
            graph_of("aten.to.dtype", Ref("x"), Symbol("dtype", "complex64")),
            STATE,
            r"an unsupported dtype: 'complex64'",
        ),
        (graph_of("aten.to.dtype", Ref("x"), Symbol("runtime", "secret")), STATE, r"an unsupported runtime: 'secret'"),
        (
            graph_of("aten.relu.default", Ref("x")),
            {},
            r"tensor 'w' of the graph: expected float32 of shape \[2, 2\], got nothing",
        ),
        (graph_of("aten.relu.default", Ref("x")), {"w": torch.ones(3)}, r"got torch.float32 of shape \[3\]"),
        (
            graph_of("aten.relu.default", Ref("x")),
            {"w": torch.eye(2).double()},
            r"got torch.float64 of shape \[2, 2\]",
        ),
    ],
    ids=["overload", "out", "outs by name", "dtype", "runtime", "missing", "shape", "tensor dtype"],
)
def test_what_does_not_fit_is_refused(graph: Graph, state: Mapping[str, Tensor], words: str) -> None:
    """An unknown overload or symbol, and a tensor that is not as the graph says, are refused before anything runs."""
    with pytest.raises(GraphFormatError, match=words):
        GraphModule(graph, state)


@pytest.mark.parametrize(
    ("graph", "words"),
    [
        (graph_of("aten.relu.default", Ref("x"), gives=()), "declares 0 result tensors, but the operation returned 1"),
        (
            graph_of("aten.sum.default", Ref("x")),
            r"declares an output of float32 and shape \['B', 1, 2, 2\], but running",
        ),
        (graph_of("aten.to.dtype", Ref("x"), Symbol("dtype", "float64")), r"on 2 images returned torch.float64"),
        (graph_of("aten.view.default", Ref("x"), (7, 7)), "fails on its operands"),
        (
            graph_of(
                "aten.full.default",
                (100_000, 100_000),
                1.0,
                gives=(ValueMeta(shape=(100_000, 100_000), dtype="float32"),),
            ),
            "expected a result of at most 100,000,000 elements, got 10,000,000,000 elements",
        ),
    ],
    ids=["hidden result", "shape", "dtype", "operands", "giant"],
)
def test_what_the_check_on_the_meta_device_refuses(graph: Graph, words: str) -> None:
    """A graph whose operations do not fit, or make something giant, is refused before a number is computed."""
    with pytest.raises(GraphFormatError, match=words):
        GraphModule(graph, STATE)


def test_other_constants_are_refused() -> None:
    """A constant with other numbers than the graph was captured with is refused."""
    graph = graph_of("aten.relu.default", Ref("x"))
    constant = TensorSpec(name="w", kind="constant", shape=(2, 2), dtype="float32", content="0" * 64)
    with pytest.raises(GraphFormatError, match="constant 'w' of the graph: expected values with SHA-256"):
        GraphModule(replace(graph, tensors=(constant,)), STATE)
