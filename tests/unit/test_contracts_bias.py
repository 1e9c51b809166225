"""`[bias] before_norm = false`: which biases a batch norm removes, and which it does not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name every PyTorch reader knows

from harness.contracts import examine, parse_contract
from harness.contracts.requirements import NoBiasBeforeNorm
from harness.findings import Finding, Status
from harness.graph import capture

CONTRACT = parse_contract("[bias]\nbefore_norm = false", name="bias", place="bias.toml")


class Small(nn.Module):
    """Images of (1, 6, 6): a convolution to four maps, then what a subclass does with them, then their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm: nn.Module = nn.BatchNorm2d(4)

    def forward(self, images: Tensor) -> Tensor:
        """Four numbers an image."""
        return self.late(self.conv(images)).flatten(2).mean(2)

    def late(self, maps: Tensor) -> Tensor:
        """What follows the convolution."""
        normed: Tensor = self.norm(maps)
        return normed


def found_on(module: nn.Module) -> Finding:
    """The finding on a module, confirmed by its experiment."""
    torch.manual_seed(3)
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    (finding,) = (
        found
        for found in examine(capture(module, (1, 6, 6), name="small", twice=False), CONTRACT, probe=True)
        if found.requirement == "bias"
    )
    assert finding.status is not Status.FAIL or "does not change the output" in finding.evidence[-1]
    return finding


# Removed ----------------------------------------------------------------------------------------------------------------


class WithoutRunningStatistics(Small):
    """The norm uses the batch in evaluation, too."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(4, track_running_stats=False)


class WithoutWeights(Small):
    """The norm has no weights of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(4, affine=False)


class Grouped(Small):
    """A convolution in groups, after another one whose bias is needed."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 1)
        self.conv = nn.Conv2d(4, 4, 3, groups=2)

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(F.relu(self.first(images)))


class Transposed(Small):
    """A transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(1, 4, 3)  # type: ignore[assignment]  # stands where the plain one stood


class NothingBetween(Small):
    """An identity, copies and an inactive dropout between the two; the size of the maps is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.same = nn.Identity()

    def late(self, maps: Tensor) -> Tensor:
        assert maps.shape[1] == 4
        return super().late(self.same(maps).contiguous().clone()) + maps.size(0) * 0


class Flattened(Small):
    """The maps are flattened, turned there and back, and normed as rows."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)

    def late(self, maps: Tensor) -> Tensor:
        return super().late(maps.flatten(2).transpose(1, 2).permute(0, 2, 1))


class NormedByNumber(Small):
    """Each number of the flattened maps is normed on its own."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(64)

    def late(self, maps: Tensor) -> Tensor:
        return super().late(maps.flatten(1)).view(-1, 4, 16)


class ByFunction(Small):
    """Functions, and a bias that is a parameter of the module itself."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, bias=False)
        self.shift = nn.Parameter(torch.zeros(4))

    def forward(self, images: Tensor) -> Tensor:
        maps = F.conv2d(images, self.conv.weight, self.shift)
        return self.norm(maps).mean((2, 3))  # type: ignore[no-any-return]  # a module's result is Any


class ByHand(Small):
    """A number for each channel, added to the result."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, bias=False)
        self.shift = nn.Parameter(torch.zeros(4, 1, 1))

    def late(self, maps: Tensor) -> Tensor:
        return super().late(maps + self.shift)


class ByHandInPlace(ByHand):
    """The number is added in place; the norm reads the changed maps."""

    def late(self, maps: Tensor) -> Tensor:
        maps -= self.shift
        return Small.late(self, maps)


class Computed(ByHand):
    """What is added is computed from the parameter."""

    def late(self, maps: Tensor) -> Tensor:
        return Small.late(self, maps + 2 * self.shift.tanh())


class InBuffer(Small):
    """The bias is a buffer: state that nothing trains."""

    table: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, bias=False)
        self.register_buffer("table", torch.ones(4))

    def forward(self, images: Tensor) -> Tensor:
        return super().late(F.conv2d(images, self.conv.weight, self.table)).mean((2, 3))


class TwiceOneBias(Small):
    """Two convolutions share a bias, each before a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.second = nn.Conv2d(4, 4, 1)
        self.second.bias = self.conv.bias
        self.last = nn.BatchNorm2d(4)

    def late(self, maps: Tensor) -> Tensor:
        normed: Tensor = self.last(self.second(F.relu(super().late(maps))))
        return normed


class CalledTwice(Small):
    """One convolution is called twice, each time before a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)
        self.norm = nn.BatchNorm2d(1)

    def late(self, maps: Tensor) -> Tensor:
        return super().late(self.conv(F.relu(super().late(maps))))


class LinearBeforeNorm(Small):
    """A linear layer before a norm of rows."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, bias=False)
        self.linear = nn.Linear(16, 4)
        self.norm = nn.BatchNorm1d(4)

    def late(self, maps: Tensor) -> Tensor:
        normed: Tensor = self.norm(self.linear(maps.flatten(2)))
        return normed.flatten(1)[:, :4, None]


class LinearOverRows(LinearBeforeNorm):
    """The linear layer's numbers are channels only after the batch has been merged with the maps."""

    def late(self, maps: Tensor) -> Tensor:
        normed: Tensor = self.norm(self.linear(maps.flatten(2)).view(-1, 4))
        return normed.view(-1, 4, 4)


class LinearByProduct(LinearBeforeNorm):
    """A product with a matrix of weights, and a sum."""

    def late(self, maps: Tensor) -> Tensor:
        rows = maps.flatten(1)[:, :16]
        return Small.late(self, rows @ self.linear.weight.t() + self.linear.bias)[..., None]


class LinearByAddmm(LinearBeforeNorm):
    """Product and sum in one."""

    def late(self, maps: Tensor) -> Tensor:
        rows = maps.flatten(1)[:, :16]
        return Small.late(self, torch.addmm(self.linear.bias, rows, self.linear.weight.t()))[..., None]


REMOVED = {
    Small: "4 parameters without effect, in Conv2d conv",
    WithoutRunningStatistics: "4 parameters without effect, in Conv2d conv",
    WithoutWeights: "4 parameters without effect, in Conv2d conv",
    Grouped: "4 parameters without effect, in Conv2d conv",
    Transposed: "4 parameters without effect, in ConvTranspose2d conv",
    NothingBetween: "4 parameters without effect, in Conv2d conv",
    Flattened: "4 parameters without effect, in Conv2d conv",
    NormedByNumber: "4 parameters without effect, in Conv2d conv",
    ByFunction: "4 parameters without effect, in Conv2d",
    ByHand: "4 parameters without effect, in Conv2d conv",
    ByHandInPlace: "4 parameters without effect, in Conv2d conv",
    Computed: "4 parameters without effect, in Conv2d conv",
    InBuffer: "4 parameters without effect, in Conv2d",
    TwiceOneBias: "4 parameters without effect, in Conv2d conv, Conv2d second",
    CalledTwice: "1 parameters without effect, in Conv2d conv",
    LinearOverRows: "4 parameters without effect, in Linear linear",
    LinearByProduct: "4 parameters without effect, in matmul",
    LinearByAddmm: "4 parameters without effect, in Linear",
}


@pytest.mark.parametrize("build", REMOVED)
def test_a_bias_that_is_removed_is_found(build: type[Small]) -> None:
    """The layer and its parameters are named, and changing them does not change a training pass."""
    finding = found_on(build())
    assert (Status.FAIL, REMOVED[build]) == (finding.status, finding.observed)
    assert finding.hint.startswith("leave the bias out")


def test_the_layers_and_their_parameters_are_listed() -> None:
    """A bias that two layers share is counted once and listed for each."""
    finding = found_on(TwiceOneBias())
    assert ("Conv2d conv: conv.bias (4)", "Conv2d second: conv.bias (4)") == finding.evidence[:2]
    assert "leave the bias out, with bias=False, in Conv2d conv, Conv2d second" == finding.hint


# Not removed ------------------------------------------------------------------------------------------------------------


class WithoutBias(Small):
    """There is none."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, bias=False)


class UsedElsewhere(Small):
    """The maps are used beside the norm, too."""

    def late(self, maps: Tensor) -> Tensor:
        return super().late(maps) + maps.square()


class ReluBetween(Small):
    """A ReLU keeps what the bias lifts above zero."""

    def late(self, maps: Tensor) -> Tensor:
        return super().late(F.relu(maps))


class ReluInPlaceBetween(Small):
    """The ReLU works in place, and the norm reads the maps by their old name."""

    def late(self, maps: Tensor) -> Tensor:
        maps.relu_()
        return super().late(maps)


class DropoutBetween(Small):
    """Where a number is dropped the bias is dropped, too."""

    def late(self, maps: Tensor) -> Tensor:
        return super().late(F.dropout(maps, 0.5, self.training))


class FrozenNorm(Small):
    """The norm uses its running statistics in training, whatever the bias is."""

    def train(self, mode: bool = True) -> FrozenNorm:  # noqa: FBT001, FBT002 - torch's own signature
        super().train(mode)
        self.norm.eval()
        return self


class NormInTrainingOnly(Small):
    """Evaluation leaves the norm out, and shows the bias."""

    def late(self, maps: Tensor) -> Tensor:
        return super().late(maps) if self.training else maps


class SharedWithHead(Small):
    """The bias is another layer's, too, which needs it."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(4, 4, 1)
        self.head.bias = self.conv.bias

    def late(self, maps: Tensor) -> Tensor:
        scored: Tensor = self.head(super().late(maps))
        return scored


class OtherNorm(Small):
    """A norm over the image, and not over the batch: instance, group and layer norms are not asked about."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.InstanceNorm2d(4)


class GroupNorm(Small):
    """A norm over two channels: a bias changes how they differ."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(2, 4)


class LayerNorm(Small):
    """A norm over all channels."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm([4, 4, 4])


class ByPosition(Small):
    """What is added by hand differs from position to position."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, bias=False)
        self.shift = nn.Parameter(torch.zeros(1, 4, 4))

    def late(self, maps: Tensor) -> Tensor:
        return super().late(maps + self.shift)


class NotOnPath(Small):
    """The norm's result is thrown away."""

    def late(self, maps: Tensor) -> Tensor:
        super().late(maps)
        return maps


KEPT = [
    WithoutBias,
    UsedElsewhere,
    ReluBetween,
    ReluInPlaceBetween,
    DropoutBetween,
    FrozenNorm,
    NormInTrainingOnly,
    SharedWithHead,
    OtherNorm,
    GroupNorm,
    LayerNorm,
    ByPosition,
    NotOnPath,
    LinearBeforeNorm,
]


@pytest.mark.parametrize("build", KEPT)
def test_a_bias_that_has_an_effect_is_allowed(build: type[Small]) -> None:
    """Anything between layer and norm, another use, and another norm leave the bias its effect."""
    finding = found_on(build())
    assert (Status.PASS, "none", "") == (finding.status, finding.observed, finding.hint)


# Undecided --------------------------------------------------------------------------------------------------------------


class Regrouped(Small):
    """Pairs of maps are made one channel: half of each channel has one bias, half the other."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(2)

    def late(self, maps: Tensor) -> Tensor:
        return super().late(maps.view(-1, 2, 32))


class ReluOnView(Small):
    """The ReLU works in place on another view of the maps."""

    def late(self, maps: Tensor) -> Tensor:
        maps.view(-1, 64).relu_()
        return super().late(maps)


@pytest.mark.parametrize("build", [Regrouped, ReluOnView])
def test_what_cannot_be_followed_is_unknown(build: type[Small]) -> None:
    """A change of shape that mixes channels with positions, or writing into a view, leaves it undecided."""
    finding = found_on(build())
    assert (Status.UNKNOWN, "4 parameters perhaps without effect, in Conv2d conv") == (
        finding.status,
        finding.observed,
    )


def test_the_section_asks_only_when_it_says_false() -> None:
    """`before_norm = true` allows such biases, like a contract without the section."""
    assert ("capture", "bias") == CONTRACT.requirement_names
    assert NoBiasBeforeNorm(before_norm=False) == CONTRACT.find(NoBiasBeforeNorm)
    for text in ("[bias]\nbefore_norm = true", ""):
        assert ("capture",) == parse_contract(text, name="c", place="c.toml").requirement_names
