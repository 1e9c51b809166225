"""Hypothesis strategies: random small networks, verdicts, and values that no document or option should hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from harness.findings import Finding, Status
from harness.grading import GradedRequirement, Penalty, Verdict
from tests.made_up import ENVIRONMENT
from tests.verdicts import HOSTILE, full_verdict

# Networks stay small: what is examined does not depend on width, and a probe costs a pass for every pixel.
_MAX_SIDE = 32
_SIDES = ((12, 12), (12, 12), (9, 13), (16, 16), (16, 11), (7, 7), (28, 28))


@dataclass(frozen=True)
class Layer:
    """One layer as data: what it is and its settings, so that a failing example prints as something to read."""

    kind: str
    settings: tuple[object, ...] = ()

    def build(self, channels: int) -> nn.Module:
        """The layer as a module for a map of this many channels."""
        return _BUILD[self.kind](channels, *self.settings)


@dataclass(frozen=True)
class Branches:
    """Chains of layers side by side, brought to one size, and added, multiplied or concatenated; no layers is a skip."""

    join: str
    resize: str
    arms: tuple[tuple[Layer, ...], ...]

    def build(self, channels: int) -> nn.Module:
        """The branches as a module for a map of this many channels."""
        return _Branched(self, channels)


@dataclass(frozen=True)
class Network:
    """A random network as data.

    Args:
        input_shape: channels, rows, columns.
        layers: the body.
        head: how the map becomes a row of numbers.
        seed: of its weights.
    """

    input_shape: tuple[int, int, int]
    layers: tuple[Layer | Branches, ...]
    head: str
    seed: int

    def build(self) -> nn.Module:
        """The network in evaluation mode; the same weights each time."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            body: list[nn.Module] = []
            example = torch.zeros(2, *self.input_shape)
            for layer in self.layers:
                module = layer.build(example.shape[1]).eval()
                with torch.no_grad():
                    example = module(example)
                body.append(module)
            return nn.Sequential(*body, _HEADS[self.head](example.shape)).eval()


class _Function(nn.Module):
    """A function of one tensor as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, images: Tensor) -> Tensor:
        return self.function(images)


class _Branched(nn.Module):
    def __init__(self, plan: Branches, channels: int) -> None:
        super().__init__()
        self.join = plan.join
        self.resize = plan.resize
        self.arms = nn.ModuleList()
        for arm in plan.arms:
            chain: list[nn.Module] = []
            width = channels
            for layer in arm:
                chain.append(layer.build(width))
                width = _width(layer, width)
            if plan.join != "cat" and width != channels:
                chain.append(nn.Conv2d(width, channels, 1))
            self.arms.append(nn.Sequential(*chain))

    def forward(self, images: Tensor) -> Tensor:
        values: list[Tensor] = [arm(images) for arm in self.arms]
        size = values[0].shape[2:]
        values = [value if value.shape[2:] == size else self._resized(value, size) for value in values]
        if self.join == "cat":
            return torch.cat(values, dim=1)
        result = values[0]
        for value in values[1:]:
            result = result + value if self.join == "add" else result * value.sigmoid()
        return result

    def _resized(self, value: Tensor, size: torch.Size) -> Tensor:
        if self.resize == "pool":
            return functional.adaptive_avg_pool2d(value, (size[0], size[1]))
        if self.resize == "nearest":
            return functional.interpolate(value, size=(size[0], size[1]), mode="nearest")
        return functional.interpolate(value, size=(size[0], size[1]), mode=self.resize, align_corners=False)


def _width(layer: Layer, channels: int) -> int:
    if layer.kind in ("conv", "transposed"):
        return int(str(layer.settings[0]))
    return channels


def _conv(channels: int, width: int, kernel: tuple[int, int], *rest: tuple[int, int]) -> nn.Module:
    stride, padding, dilation = rest
    return nn.Conv2d(channels, width, kernel, stride, padding, dilation)


def _same(channels: int, kernel: tuple[int, int], dilation: tuple[int, int]) -> nn.Module:
    return nn.Conv2d(channels, channels, kernel, padding="same", dilation=dilation)


def _depthwise(channels: int, kernel: int, stride: int, padding: int) -> nn.Module:
    return nn.Conv2d(channels, channels, kernel, stride, padding, groups=channels)


def _transposed(channels: int, width: int, kernel: int, *rest: int) -> nn.Module:
    stride, padding, dilation = rest
    return nn.ConvTranspose2d(channels, width, kernel, stride, padding, output_padding=stride - 1, dilation=dilation)


def _max_pool(_channels: int, *window: int) -> nn.Module:
    kernel, stride, padding, dilation, ceil_mode = window
    return nn.MaxPool2d(kernel, stride, padding, dilation, ceil_mode=bool(ceil_mode))


def _padded(_channels: int, amounts: tuple[int, int, int, int], mode: str) -> nn.Module:
    return _Function(lambda images: functional.pad(images, amounts, mode=mode))


def _scaled(_channels: int, factor: float, mode: str) -> nn.Module:
    align = None if mode.startswith("nearest") else False
    return _Function(lambda images: functional.interpolate(images, scale_factor=factor, mode=mode, align_corners=align))


def _sized(_channels: int, size: tuple[int, int], mode: str, align: bool) -> nn.Module:  # noqa: FBT001 - settings are positional
    corners = None if mode.startswith("nearest") else align
    return _Function(lambda images: functional.interpolate(images, size=size, mode=mode, align_corners=corners))


def _activation(_channels: int, name: str) -> nn.Module:
    module: nn.Module = getattr(nn, name)()
    return module


class _Gate(nn.Module):
    """Squeeze and excite: every channel times a number that sees the whole map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(channels, channels, 1)

    def forward(self, images: Tensor) -> Tensor:
        weights: Tensor = self.mix(images.mean((2, 3), keepdim=True)).sigmoid()
        return images * weights


_BUILD: dict[str, Callable[..., nn.Module]] = {
    "conv": _conv,
    "same": _same,
    "depthwise": _depthwise,
    "transposed": _transposed,
    "max_pool": _max_pool,
    "avg_pool": lambda _, kernel, stride, padding, ceil, counts: nn.AvgPool2d(kernel, stride, padding, ceil, counts),
    "adaptive_max": lambda _, size: nn.AdaptiveMaxPool2d(size),
    "adaptive_avg": lambda _, size: nn.AdaptiveAvgPool2d(size),
    "pad": _padded,
    "scaled": _scaled,
    "sized": _sized,
    "activation": _activation,
    "batch_norm": nn.BatchNorm2d,
    "dropout": lambda _, p: nn.Dropout(p),
    "group_norm": lambda channels: nn.GroupNorm(1, channels),
    "flip": lambda _: _Function(lambda images: images.flip(3)),
    "crop": lambda _: _Function(lambda images: images[:, :, 1:, :-1]),
    "every_other": lambda _: _Function(lambda images: images[:, :, ::2]),
    "gate": _Gate,
    "halves": lambda _: _Function(lambda images: torch.cat(images.chunk(2, dim=3), dim=1)),
}


def _linear_head(features: int, before: Callable[[Tensor], Tensor]) -> nn.Module:
    return nn.Sequential(_Function(before), nn.Linear(features, 10), nn.LogSoftmax(dim=1))


_HEADS: dict[str, Callable[[torch.Size], nn.Module]] = {
    "adaptive": lambda s: _linear_head(s[1], lambda x: functional.adaptive_avg_pool2d(x, 1).flatten(1)),
    "mean": lambda s: _linear_head(s[1], lambda x: x.mean((2, 3))),
    "mean twice": lambda s: _linear_head(s[1], lambda x: x.mean(-1).mean(-1)),
    "mean of rows": lambda s: _linear_head(s[1], lambda x: x.reshape(x.size(0), x.size(1), -1).mean(2)),
    "sum": lambda s: _linear_head(s[1], lambda x: x.sum((2, 3)) / (s[2] * s[3])),
    "avg_pool": lambda s: _linear_head(s[1], lambda x: functional.avg_pool2d(x, (s[2], s[3])).view(-1, s[1])),
    "maximum": lambda s: _linear_head(s[1], lambda x: x.amax((2, 3))),
    "max twice": lambda s: _linear_head(s[1], lambda x: x.max(3)[0].max(2)[0]),
    "flatten": lambda s: _linear_head(s[1] * s[2] * s[3], lambda x: x.flatten(1)),
    "pooled 1x1": lambda s: nn.Sequential(
        _Function(lambda x: x.mean((2, 3), keepdim=True)), nn.Conv2d(s[1], 10, 1), nn.Flatten(), nn.LogSoftmax(dim=1)
    ),
    "1x1 pooled": lambda s: nn.Sequential(
        nn.Conv2d(s[1], 10, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LogSoftmax(dim=-1)
    ),
    "whole map": lambda s: nn.Sequential(
        nn.Conv2d(s[1], 10, (s[2], s[3])), _Function(lambda x: functional.log_softmax(x.view(-1, 10), dim=-1))
    ),
    "channels last": lambda s: nn.Sequential(
        _Function(lambda x: x.permute(0, 2, 3, 1)), nn.Linear(s[1], 10), _Function(lambda x: x.mean((1, 2)))
    ),
}

_MODES = st.sampled_from(("nearest", "nearest-exact", "bilinear", "bicubic"))


def _pairs(values: st.SearchStrategy[int]) -> st.SearchStrategy[tuple[int, int]]:
    """Often square, sometimes not."""
    return st.one_of(values.map(lambda value: (value, value)), st.tuples(values, values))


def _layers() -> st.SearchStrategy[Layer]:
    kernels = st.sampled_from((1, 2, 3, 3, 3, 4, 5, 5, 6, 7))
    strides = st.sampled_from((1, 1, 1, 2, 3))
    dilations = st.sampled_from((1, 1, 2, 3))
    widths = st.integers(1, 4)
    windows = st.integers(2, 4)
    flags = st.booleans()

    def layer(kind: str, *settings: st.SearchStrategy[object]) -> st.SearchStrategy[Layer]:
        return st.tuples(*settings).map(lambda drawn: Layer(kind, drawn))

    convolutions = [
        layer("conv", widths, _pairs(kernels), _pairs(strides), _pairs(st.integers(0, 3)), _pairs(dilations)),
        layer("same", _pairs(kernels), _pairs(dilations)),
        layer("depthwise", kernels, strides, st.integers(0, 2)),
        layer("transposed", widths, st.integers(2, 4), st.integers(1, 2), st.integers(0, 1), st.integers(1, 2)),
    ]
    poolings = [
        layer("max_pool", windows, st.integers(1, 3), st.integers(0, 1), st.integers(1, 2), flags),
        layer("avg_pool", windows, st.integers(1, 3), st.integers(0, 1), flags, flags),
        layer("adaptive_max", _pairs(st.integers(1, 9))),
        layer("adaptive_avg", _pairs(st.integers(1, 9))),
    ]
    reshapings = [
        layer(
            "pad",
            st.tuples(*[st.integers(0, 3)] * 4),
            st.sampled_from(("constant", "constant", "reflect", "replicate", "circular")),
        ),
        layer("scaled", st.sampled_from((0.5, 1.5, 2.0, 0.7)), _MODES),
        layer("sized", _pairs(st.integers(2, 20)), _MODES, flags),
        *(layer(kind) for kind in ("flip", "crop", "every_other", "halves")),
    ]
    pointwise = [
        layer("activation", st.sampled_from(("ReLU", "GELU", "Sigmoid", "Hardtanh", "SiLU", "PReLU"))),
        layer("batch_norm"),
        layer("dropout", st.sampled_from((0.0, 0.1, 0.5))),
        layer("group_norm"),
        layer("gate"),
    ]
    return st.one_of(
        *convolutions, *convolutions, *poolings, *pointwise, st.one_of(*reshapings), st.one_of(*reshapings)
    )


def _branches() -> st.SearchStrategy[Branches]:
    arms = st.lists(st.lists(_layers(), max_size=2).map(tuple), min_size=2, max_size=3).map(tuple)
    return st.builds(
        Branches,
        st.sampled_from(("add", "add", "multiply", "cat")),
        st.sampled_from(("nearest", "bilinear", "pool")),
        arms,
    )


def _fits(layer: Layer | Branches, shape: torch.Size) -> torch.Size | None:
    """The shape after the layer; None where the layer cannot work on the map, or makes it too large."""
    try:
        with torch.no_grad():
            result = layer.build(shape[1]).eval()(torch.zeros(2, *shape[1:])).shape
    except (RuntimeError, ValueError):
        return None
    return result if 0 not in result and max(result[1:]) <= _MAX_SIDE else None


@st.composite
def networks(draw: st.DrawFn) -> Network:
    """Networks of one to six layers or branches on 1x7x7 to 2x28x28 images, all of which run."""
    rows, columns = draw(st.sampled_from(_SIDES))
    input_shape = (draw(st.integers(1, 2)), rows, columns)
    shape = torch.Size((2, *input_shape))
    layers: list[Layer | Branches] = []
    for layer in draw(st.lists(st.one_of(_layers(), _layers(), _branches()), min_size=1, max_size=6)):
        result = _fits(layer, shape)
        # A layer that does not fit is left out: drawing another would make shrinking slow.
        if result is not None:
            layers.append(layer)
            shape = result
    head = draw(st.sampled_from(sorted(_HEADS)))
    return Network(input_shape, tuple(layers), head, draw(st.integers(0, 2**16)))


# As they are written in a document: JSON and TOML share these spellings, but for the last ones.
_NUMBERS = (
    "0",
    "-1",
    "1e999",
    "-1e999",
    "1e308",
    "5e-324",
    "-0.0",
    "9" * 5000,
    "9" * 4000,
    "9223372036854775808",
    "1" * 21,
)
_TEXTS = (
    '""',
    '"a"',
    '"' + "a" * 5000 + '"',
    '"\\u0000"',
    '"\\u001b[31m"',
    '"~nosuchuser/x"',
    '"/dev/null"',
    '"cpu:99999999"',
)
_NESTED = ("[]", "{}", "[" * 20 + "]" * 20, "[" * 200 + "]" * 200, "[" * 5000 + "]" * 5000, "true", "[[], [1], 2]")
_JSON_ONLY = ("NaN", "-Infinity", "null", '"\\ud800"', '{"a":' * 900 + "1" + "}" * 900, '{"name": []}', "1" + "0" * 400)
_TOML_ONLY = ("nan", "-inf", "0x" + "f" * 5000, "1979-05-27", "{a = 1}", "'\\'", "= =", "{name = []}", "0b" + "1" * 64)

json_values = st.sampled_from((*_NUMBERS, *_TEXTS, *_NESTED, *_JSON_ONLY))
toml_values = st.sampled_from((*_NUMBERS, *_TEXTS, *_NESTED, *_TOML_ONLY))
_AS_NUMBERS = ("0", "-1", "1", "2.5", "1e999", "nan", "9" * 5000, "9223372036854775808", "1,1", "5-1", "0-99999")
_AS_PATHS = (
    "",
    " ",
    "-",
    "--",
    "a" * 5000,
    "\udcff",
    "\udcff.toml",
    "net\udcff.py:Net",
    "\x1b[31m",
    "\n",
    "~nosuchuser/x",
)
_AS_DEVICES = ("/dev/null", "/dev/zero", "/", ".", "cuda:99999999999999999999", "mps:7", "auto", "eager", "nosuch")
_AS_ARGUMENTS = (
    "(" * 3000,
    "[" * 500,
    "x=" + "[" * 900 + "]" * 900,
    "x=1e999",
    "x=" + "9" * 1900,
    "x=" + "-" * 1500,
    "=",
    "**x",
)
_AS_FILES = ("x.toml", "x.json", "x.png", "x.gif", "x.pt", "nosuch.json")
# What a test has put there: a read-only file, a link to it, a link to itself, a folder, and names below these.
_IN_THE_WAY = ("kept.json", "link.json", "loop.json", "folder", "kept.json/x.json", "folder/x.json", "nosuch/x.json")
option_values = st.sampled_from((*_AS_NUMBERS, *_AS_PATHS, *_AS_DEVICES, *_AS_ARGUMENTS, *_AS_FILES, *_IN_THE_WAY))
# Texts that would change a terminal: escape codes, control characters of 7 and 8 bits, directions of writing.
control_texts = st.text("\x1b[31mK\x07\x08\r\n\t\x00\x7f\x85\x9b\u2028\u202e\u2066", min_size=1, max_size=12)


def places_in(document: object, here: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """The place of every value in plain data, as keys and positions."""
    if not isinstance(document, dict | list):
        return [here]
    items = document.items() if isinstance(document, dict) else enumerate(document)
    return [here, *(place for key, value in items for place in places_in(value, (*here, key)))]


def texts() -> st.SearchStrategy[str]:
    """Texts that a submission can choose: any characters, and attacks on the formats of reports."""
    return st.one_of(
        st.text(st.characters(), max_size=20), st.sampled_from(HOSTILE), st.text("\x1b[:#=,;\"'|\n\r", max_size=8)
    )


@st.composite
def verdicts(draw: st.DrawFn) -> Verdict:
    """Verdicts of one to five requirements with any texts and points; a few have a model and trainings."""
    names = draw(
        st.lists(st.sampled_from(("parameters", "dropout", "bias", "output", "accuracy")), min_size=1, unique=True)
    )
    requirements = []
    for name in names:
        finding = Finding(
            requirement=name,
            status=draw(st.sampled_from(Status)),
            expected=draw(texts()),
            observed=draw(texts()),
            evidence=tuple(draw(st.lists(texts(), max_size=2))),
            hint=draw(texts()),
        )
        most = draw(st.integers(0, 20))
        requirements.append(GradedRequirement(finding=finding, points=draw(st.integers(0, most)), max_points=most))
    penalties = draw(st.lists(st.builds(Penalty, reason=texts(), points=st.integers(1, 30)), max_size=2))
    full = full_verdict() if draw(st.booleans()) else None
    return Verdict(
        submission=draw(texts()),
        assignment="era-s7",
        assignment_digest="a" * 64,
        requirements=tuple(requirements),
        penalties=tuple(penalties),
        model=full.model if full else None,
        training=replace(full.training, wrong=full.training.wrong[:1]) if full and full.training else None,
        environment=ENVIRONMENT,
        notes=tuple(draw(st.lists(texts(), max_size=2))),
    )


# Names that lead outside, that another system reads in another way, or that are alike on one.
_NAME_PARTS = (
    "a",
    "A",
    "b.py",
    "..",
    ".",
    "",
    ".git",
    "\u00e9",
    "e\u0301",
    "C:",
    "a\\b",
    "a\0b",
    "\x1b[2J",
    "\u202e",
    "x" * 300,
)


def archive_names() -> st.SearchStrategy[list[str]]:
    """Names of the files of an archive."""
    part = st.sampled_from(_NAME_PARTS) | st.sampled_from("abc") | st.text(max_size=4)
    return st.lists(st.lists(part, min_size=1, max_size=4).map("/".join), max_size=6)


def damages() -> st.SearchStrategy[list[tuple[float, int]]]:
    """Places in a file, from 0 to 1, and the byte that is written there."""
    return st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=8)
