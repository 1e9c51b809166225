"""Capturing: the graph stands for the module or says where it does not, and the module is left as it was."""

from __future__ import annotations

import gc
import logging
import random
import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.errors import CaptureError
from harness.graph import CapturedModel, capture

Step = Callable[["Small", Tensor], object]


class Small(nn.Module):
    """A convolution, a normalisation and a linear layer; ``step`` is what a test is about."""

    def __init__(self, step: Step) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.norm = nn.BatchNorm2d(2)
        self.fc = nn.Linear(2, 3)
        self.register_buffer("kept", torch.full((3,), 2.0))
        self.register_buffer("dropped", torch.full((3,), 3.0), persistent=False)
        self.plain = torch.full((3,), 5.0)
        self.calls = 0
        self.step = step

    def forward(self, images: Tensor) -> object:
        """Three numbers an image, after the step."""
        return self.step(self, self.fc(self.norm(self.conv(images)).mean((2, 3))))


def captured(step: Step) -> CapturedModel:
    """A small network with this step, captured on 1x5x5 images."""
    return capture(Small(step), (1, 5, 5), name="net")


def counting(net: Small, scores: Tensor) -> Tensor:
    """Each call gives something else."""
    net.calls += 1
    return scores * net.calls


def keeping_sums(net: Small, scores: Tensor) -> Tensor:
    """Each call changes a plain tensor."""
    net.plain += 1
    return scores * net.plain


UNFAITHFUL: dict[str, tuple[Step, str]] = {
    "python's random": (lambda _, scores: scores * random.random(), "two captures of the model differ"),  # noqa: S311
    "numpy's random": (lambda _, scores: scores * float(np.random.rand()), "two captures of the model differ"),  # noqa: NPY002
    "a count of calls": (counting, "forward changes calls, which no buffer holds"),
    "a branch on exporting": (
        lambda _, scores: scores if torch.compiler.is_exporting() else 2 * scores,
        "in eval mode the model's output differs",
    ),
    "a plain tensor that moves": (keeping_sums, "in eval mode the model's output differs"),
}


@pytest.mark.parametrize("name", UNFAITHFUL)
def test_an_unfaithful_capture_says_so(name: str) -> None:
    """What a graph cannot repeat is noticed and said."""
    step, words = UNFAITHFUL[name]
    fidelity = captured(step).fidelity
    assert not fidelity.holds
    assert words in " ".join(fidelity.differences)


def test_random_numbers_of_torch_are_faithful() -> None:
    """Dropout and noise from torch's generator are repeated bit for bit."""
    model = captured(lambda net, scores: functional.dropout(scores, 0.5, net.training) + torch.randn_like(scores))
    assert () == model.fidelity.differences
    assert model.fidelity.holds


def branching(_: Small, scores: Tensor) -> Tensor:
    """Control flow that depends on the images."""
    return scores if scores.sum() > 0 else -scores


def without_gradient(_: Small, scores: Tensor) -> Tensor:
    """A block inside forward."""
    with torch.no_grad():
        scale = scores.abs().max()
    return scores / scale


REFUSED: dict[str, tuple[Step, str]] = {
    "a fixed batch": (
        lambda _, scores: scores.view(4, 3),
        r"forward accepts only batches of 4 images, .* write -1 or x.size\(0\)",
    ),
    "two results": (lambda _, scores: (scores, scores), r"returns tuple in evaluation mode: expected one tensor"),
    "no result": (lambda _, __: None, r"returns NoneType in evaluation mode"),
    "control flow": (branching, r"the operations depend on the values of the images"),
    "no_grad": (
        without_gradient,
        r"forward contains a torch.no_grad block in line \d+ of test_graph_capture.py: use x.detach",
    ),
    "a size from values": (
        lambda _, scores: scores[scores > 0],
        r"the shape of a tensor depends on the values of the images",
    ),
    "a failing layer": (
        lambda net, scores: net.conv(scores),
        r"fails in evaluation mode on a batch of shape \(4, 1, 5, 5\) in line \d+ of test_graph_capture.py: ",
    ),
    "an operation not allowed": (
        lambda _, scores: torch.fft.fft(scores).real,
        r"mode: operation 'aten.fft_fft.default' in line \d+ of test_graph_capture.py is not on the allow-list",
    ),
    "a result written into an argument": (
        lambda _, scores: scores + torch.mul(scores.detach(), 2, out=torch.zeros_like(scores)),
        r"mode: operation 'aten.mul.out' in line \d+ of test_graph_capture.py writes its result into an argument",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_captured_is_refused(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    """A module that no graph can stand for is refused in a sentence, and torch says nothing beside it."""
    step, words = REFUSED[name]
    with pytest.raises(CaptureError) as refused:
        captured(step)
    assert re.search(words, str(refused.value)), str(refused.value)
    assert str(refused.value).startswith("net ")
    assert ("", "") == capfd.readouterr()
    assert logging.root.manager.disable < logging.CRITICAL


def test_wrong_channels_are_refused() -> None:
    """A model for other images is told which it got."""
    with pytest.raises(
        CaptureError,
        match=r"net fails in evaluation mode on a batch of shape \(4, 3, 5, 5\) in line \d+ of .*: RuntimeError",
    ):
        capture(Small(lambda _, scores: scores), (3, 5, 5), name="net")


def failing(net: Small, scores: Tensor) -> Tensor:
    """Draws from every generator, and fails in evaluation."""
    random.random()  # noqa: S311
    np.random.rand()  # noqa: NPY002
    torch.rand(1)
    if not net.training:
        message = "not today"
        raise RuntimeError(message)
    return scores


def test_the_module_is_left_as_it_was() -> None:
    """Whether the capture works or not, tensors, modes and random states are what they were."""
    for step in (lambda _, scores: scores, failing):
        net = Small(step)
        net.norm.eval()
        modes = [child.training for child in net.modules()]
        tensors = {key: (id(tensor), tensor.clone()) for key, tensor in net.state_dict(keep_vars=True).items()}
        states = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state())  # type: ignore[index]  # noqa: NPY002
        try:
            capture(net, (1, 5, 5), name="net")
        except CaptureError as error:
            assert "not today" in str(error)  # noqa: PT017 - the other of the two steps raises nothing
        assert modes == [child.training for child in net.modules()]
        for key, tensor in net.state_dict(keep_vars=True).items():
            assert tensors[key][0] == id(tensor)
            assert torch.equal(tensors[key][1], tensor)
        assert states[0] == random.getstate()
        assert states[1] == np.random.get_state()[1].tolist()  # type: ignore[index]  # noqa: NPY002
        assert torch.equal(states[2], torch.get_rng_state())


def test_the_tensors_are_the_modules_own() -> None:
    """The state that is handed over is the module's before any pass moved its running statistics."""
    net = Small(lambda _, scores: scores)
    model = capture(net, (1, 5, 5), name="net")
    for name, tensor in (*net.named_parameters(), *net.named_buffers()):
        assert torch.equal(tensor, model.state[name]), name


def literals(net: Small, scores: Tensor) -> Tensor:
    """A plain attribute, a literal, a list of literals, and both kinds of buffer."""
    weights = [torch.tensor([1.0, 2.0, 3.0]), torch.tensor(4.0)]
    return (
        scores * net.plain
        + weights[0] * weights[1]
        + net.get_buffer("kept")
        + net.get_buffer("dropped")
        + torch.tensor([7.0, 8.0, 9.0])
    )


def test_nothing_that_is_read_is_left_out() -> None:
    """Plain tensors, literals and buffers are in the graph with their kind, size and content."""
    model = captured(literals)
    assert model.fidelity.holds
    held = {spec.name: spec for spec in model.graph.tensors}
    assert ("buffer", True) == (held["kept"].kind, held["kept"].persistent)
    assert ("buffer", False) == (held["dropped"].kind, held["dropped"].persistent)
    constants = [spec for spec in model.graph.tensors if spec.kind == "constant"]
    assert [1, 3, 3, 3] == sorted(spec.elements for spec in constants)
    assert all(len(spec.content) == 64 and not spec.persistent for spec in constants)
    assert torch.equal(torch.full((3,), 5.0), model.state["constant.plain"])
    assert 4 == len(constants)


def test_shared_parameters_count_once() -> None:
    """A tensor under two names stands once, with the other name beside it, and stays shared when rebuilt."""

    class Shared(nn.Module):
        """The same layer under two names."""

        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(1, 1, 3, padding=1, bias=False)
            self.second = self.first
            self.third = nn.Conv2d(1, 1, 3, padding=1, bias=False)
            self.third.weight = self.first.weight

        def forward(self, images: Tensor) -> Tensor:
            """The layer three times."""
            result: Tensor = self.third(self.second(self.first(images)))
            return result.flatten(1)

    model = capture(Shared(), (1, 4, 4), name="shared")
    assert ["first.weight"] == [spec.name for spec in model.graph.tensors]
    assert ("second.weight", "third.weight") == model.graph.tensors[0].aliases
    assert 9 == sum(declared.parameters for declared in model.graph.modules)
    rebuilt = model.to_module()
    assert 1 == len(list(rebuilt.parameters()))
    assert rebuilt.state_dict().keys() == Shared().state_dict().keys()


class Late(Small):
    """Makes a part of itself in its first forward; ``make`` does that."""

    def __init__(self, make: Callable[[Late], None]) -> None:
        super().__init__(lambda _, scores: scores)
        self.make = make

    def forward(self, images: Tensor) -> object:
        """The network, on the images by what was made."""
        if not hasattr(self, "late"):
            self.make(self)
        return super().forward(images * self.late if isinstance(self.late, Tensor) else self.late(images))


def _buffer(net: Late) -> None:
    net.register_buffer("late", torch.full((1, 1, 5, 5), 2.0))


def _parameter(net: Late) -> None:
    net.late = nn.Parameter(torch.ones(1))


def _layer(net: Late) -> None:
    net.late = nn.Conv2d(1, 1, 1)


@pytest.mark.parametrize(
    ("make", "names"), [(_buffer, {"late"}), (_parameter, {"late"}), (_layer, {"late.weight", "late.bias"})]
)
def test_what_the_first_forward_makes_is_part_of_the_model(make: Callable[[Late], None], names: set[str]) -> None:
    """Buffers, parameters and layers that the first pass makes are captured like those of the constructor."""
    model = capture(Late(make), (1, 5, 5), name="net")

    assert () == model.fidelity.differences
    assert names <= set(model.state)


class EachTime(Small):
    """Makes another buffer in each pass."""

    def forward(self, images: Tensor) -> object:
        """The network."""
        self.calls += 1
        self.register_buffer(f"late{self.calls}", torch.ones(1))
        return super().forward(images)


class Averaging(Small):
    """Makes a buffer in its first training pass and changes it at once."""

    def forward(self, images: Tensor) -> object:
        """The network."""
        if self.training:
            late = self.get_buffer("late") if "late" in self._buffers else torch.zeros(1)
            self.register_buffer("late", 0.9 * late + images.mean())
        return super().forward(images)


@pytest.mark.parametrize("build", [EachTime, Averaging])
def test_what_each_forward_makes_anew_is_refused(build: Callable[[Step], Small]) -> None:
    """A buffer without a value before the first pass is no part of a graph."""
    with pytest.raises(
        CaptureError, match=r"forward creates late\d?, and creates or changes the same tensors again in each pass"
    ):
        capture(build(lambda _, scores: scores), (1, 5, 5), name="net")


class OwnModes(Small):
    """Its own train() and eval() return nothing."""

    def train(self, mode: bool = True) -> None:  # type: ignore[override]  # noqa: FBT001, FBT002 - as nn.Module declares it
        """Set the mode."""
        super().train(mode)

    def eval(self) -> None:  # type: ignore[override]
        """Set the mode."""
        self.train(mode=False)


class KerasLike(Small):
    """Its train() is the training loop."""

    def train(self, loader: object, epochs: int) -> None:  # type: ignore[override]
        """Do nothing."""


def test_own_train_and_eval_methods_are_called_as_statements() -> None:
    """They may return anything; one that takes something else than a mode is told so."""
    drops = capture(OwnModes(lambda net, scores: functional.dropout(scores, 0.5, net.training)), (1, 5, 5), name="net")

    assert drops.fidelity.holds
    assert (True, False) == tuple(
        next(operation for operation in program.operations if operation.kind.family == "dropout").args[2]
        for program in (drops.graph.train, drops.graph.evaluate)
    )
    with pytest.raises(CaptureError, match=r"eval\(\) fails: TypeError: .* Expected the method train"):
        capture(KerasLike(lambda _, scores: scores), (1, 5, 5), name="net")


class Attention(nn.Module):
    """An encoder with PyTorch's own fast path."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(6, 2, 8, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)

    def forward(self, images: Tensor) -> Tensor:
        """Six numbers an image."""
        rows = self.encoder(images.squeeze(1))
        result: Tensor = self.attention(rows, rows, rows, need_weights=False)[0]
        return result.mean(1)


def test_fast_paths_and_compilation_are_off_and_restored() -> None:
    """Attention and a compiled function equal the graph to the bit."""

    def compiling(*_: object) -> None:
        raise AssertionError("a function was compiled")

    double = torch.compile(lambda scores: 2 * scores, backend=compiling)

    assert () == capture(Attention(), (1, 6, 6), name="net").fidelity.differences
    assert torch.backends.mha.get_fastpath_enabled()
    assert gc.isenabled()
    assert () == captured(lambda _, scores: double(scores)).fidelity.differences


def test_a_model_may_consist_of_plain_tensors() -> None:
    """A product with a transposed plain tensor, and no parameter at all."""
    weights = torch.randn(3, 25)

    class Plain(nn.Module):
        """A product."""

        def forward(self, images: Tensor) -> Tensor:
            """Three numbers an image."""
            return images.flatten(1) @ weights.T

    model = capture(Plain(), (1, 5, 5), name="net")
    assert model.fidelity.holds
    assert {"constant"} == {spec.kind for spec in model.graph.tensors}


TENSORS: dict[str, tuple[Callable[[], Tensor], str]] = {
    "meta": (lambda: torch.ones(3, device="meta"), "is on the meta device and holds no numbers"),
    "sparse": (lambda: torch.eye(3).to_sparse(), "is of layout sparse_coo: use a dense tensor"),
    "complex": (lambda: torch.ones(3, dtype=torch.complex64), "is of type complex64: use float32"),
}


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_that_a_graph_cannot_hold_are_named(name: str) -> None:
    """Tensors without numbers, of another layout or of another type."""
    make, words = TENSORS[name]
    net = Small(lambda _, scores: scores)
    net.register_buffer("odd", make())
    with pytest.raises(CaptureError, match=f"its tensor odd {words}"):
        capture(net, (1, 5, 5), name="net")


def test_double_precision_is_named_as_the_cause() -> None:
    """A module in double precision that gets images in single precision."""
    with pytest.raises(CaptureError, match="Its parameters are float64, and images are float32: use float32"):
        capture(Small(lambda _, scores: scores).double(), (1, 5, 5), name="net")


def test_an_expanded_buffer_is_put_back() -> None:
    """Its memory cannot be written to tensor by tensor."""
    net = Small(lambda net, scores: scores + net.get_buffer("expanded")[0])
    net.register_buffer("expanded", torch.ones(1, 1).expand(4, 3))
    assert capture(net, (1, 5, 5), name="net").fidelity.holds
    assert (0, 0) == net.get_buffer("expanded").stride()


def test_the_defaults_of_torch_do_not_matter() -> None:
    """A default type or device that the constructor has set leaves the capture as it is."""
    net = Small(lambda _, scores: scores + torch.ones(3))
    plain = capture(net, (1, 5, 5), name="net")
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    try:
        other = capture(net, (1, 5, 5), name="net")
        assert (torch.float64, "meta") == (torch.get_default_dtype(), torch.get_default_device().type)
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
    assert plain.graph.exact_digest() == other.graph.exact_digest()


@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_lazy_modules_get_their_shapes() -> None:
    """A layer without shapes gets them, from the caller's random state."""
    torch.manual_seed(3)
    first = capture(nn.Sequential(nn.Flatten(), nn.LazyLinear(2)), (1, 2, 2), name="lazy")
    torch.manual_seed(3)
    second = capture(nn.Sequential(nn.Flatten(), nn.LazyLinear(2)), (1, 2, 2), name="lazy")
    assert (2, 4) == first.state["1.weight"].shape
    assert torch.equal(first.state["1.weight"], second.state["1.weight"])


def test_declared_modules_are_listed_called_or_not() -> None:
    """The module tree holds what forward never calls."""
    net = Small(lambda _, scores: scores)
    net.idle = nn.Dropout(0.3)
    model = capture(net, (1, 5, 5), name="net")
    assert ["", "conv", "norm", "fc", "idle"] == [declared.path for declared in model.graph.modules]
    assert "Dropout" == model.graph.modules[-1].type


def test_the_exact_digest_is_the_computations() -> None:
    """Nesting and names do not change the digest; a padding, a p, an order and a constant's content do."""

    class Named(nn.Module):
        """The first of the networks below with other names, nested differently."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.ModuleDict({"a": nn.Sequential(nn.Conv2d(1, 2, 3)), "b": nn.ReLU()})
            self.rate = 0.1

        def forward(self, images: Tensor) -> Tensor:
            """Convolution, activation, dropout, flattening."""
            result = functional.dropout(self.inner["b"](self.inner["a"](images)), self.rate, self.training)
            return torch.flatten(result, 1)

    def digest(net: nn.Module) -> str:
        return capture(net, (1, 5, 5), name="net", twice=False).graph.exact_digest()

    same = digest(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Dropout(0.1), nn.Flatten()))
    others = [
        nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Dropout(0.1), nn.Flatten()),
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Dropout(0.2), nn.Flatten()),
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.Dropout(0.1), nn.ReLU(), nn.Flatten()),
    ]
    assert same == digest(Named())
    assert 4 == len({same, *map(digest, others)})
    one, two = (
        captured(lambda _, scores: scores * torch.tensor(3.0)),
        captured(lambda _, scores: scores * torch.tensor(4.0)),
    )
    assert one.graph.exact_digest() != two.graph.exact_digest()


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (lambda _, scores: scores, "one prediction each"),
        (lambda _, scores: scores.sum(), "other predictions"),
    ],
)
def test_other_sizes_are_tried(step: Step, expected: str) -> None:
    """What the module makes of larger images is known."""
    assert expected == captured(step).fidelity.other_size
