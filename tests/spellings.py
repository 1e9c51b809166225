"""One network written in many ways, and networks that only look like it.

Every class here is one of three: a spelling of `Sound`, a spelling of `Skipping`, or near to one of the two and different in
one setting.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name every PyTorch reader knows

from harness.contracts import examine
from harness.contracts.requirements import CostBound
from harness.graph import capture
from harness.structure import identity_digest
from tests.mutants import CONTRACT, Sound

# Spellings hold more or fewer values on the way, so that their memory is no figure to compare.
_CONTRACT = replace(
    CONTRACT,
    requirements=tuple(
        CostBound(max_macs=339_128) if isinstance(requirement, CostBound) else requirement
        for requirement in CONTRACT.requirements
    ),
)
_FIGURES = ("input", "output", "parameters", "receptive_field")


@dataclass(frozen=True, kw_only=True)
class Examined:
    """What is known of a spelling.

    Args:
        digest: its identity.
        statuses: by requirement.
        figures: what was observed, where it is a figure.
        outputs: log-probabilities of four images, from the weights of the first of its group.
    """

    digest: str
    statuses: dict[str, str]
    figures: dict[str, str]
    outputs: list[list[float]]


SPELLINGS: dict[str, type[nn.Module]] = {}
NEAR: dict[str, type[nn.Module]] = {}


def original_of(name: str) -> type[Sound]:
    """The first of the group that a spelling belongs to."""
    return Skipping if issubclass(SPELLINGS[name], Skipping) else Sound


def _spelling(build: type[nn.Module]) -> type[nn.Module]:
    SPELLINGS[build.__name__] = build
    return build


def _near(build: type[nn.Module]) -> type[nn.Module]:
    NEAR[build.__name__] = build
    return build


_spelling(Sound)


@_spelling
class Skipping(Sound):
    """The sound network with a sum: the late maps and a 1x1 convolution of them."""

    def __init__(self) -> None:
        super().__init__(width=33)
        self.side = nn.Conv2d(33, 33, 1, bias=False)

    def joined(self, maps: Tensor, beside: Tensor) -> Tensor:
        """The sum of both."""
        return maps + beside

    def late(self, maps: Tensor) -> Tensor:
        maps = super().late(maps)
        return self.joined(maps, self.side(maps))


# Dropout ----------------------------------------------------------------------------------------------------------------


@_spelling
class FunctionalDropout(Sound):
    """As a function with the mode as an argument."""

    def dropped(self, maps: Tensor) -> Tensor:
        return F.dropout(maps, 0.1, self.training)


@_spelling
class DropoutInPlace(Sound):
    """In place."""

    def dropped(self, maps: Tensor) -> Tensor:
        return F.dropout(maps.clone(), p=0.1, training=self.training, inplace=True)


@_spelling
class DropoutUnderIf(Sound):
    """Not even called in evaluation."""

    def dropped(self, maps: Tensor) -> Tensor:
        return F.dropout(maps, 0.1) if self.training else maps


@_spelling
class DropoutInLambda(Sound):
    """Behind a lambda that is no module."""

    def dropped(self, maps: Tensor) -> Tensor:
        drop = {"drop": lambda values: F.dropout(values, 0.1, self.training)}
        return drop["drop"](maps)


# Global average ---------------------------------------------------------------------------------------------------------


@_spelling
class MeanOfBoth(Sound):
    """`mean((2, 3))`."""

    def pooled(self, maps: Tensor) -> Tensor:
        return maps.mean((2, 3), keepdim=True)


@_spelling
class MeanOfBothTurned(Sound):
    """`mean` by a list, columns first, the dimensions put back by indexing."""

    def pooled(self, maps: Tensor) -> Tensor:
        return maps.mean([-1, -2])[:, :, None, None]


@_spelling
class MeanTwice(Sound):
    """`mean(-1).mean(-1)`."""

    def pooled(self, maps: Tensor) -> Tensor:
        return maps.mean(-1).mean(-1).unsqueeze(-1).unsqueeze(-1)


@_spelling
class MeanOfFlat(Sound):
    """The mean over a flattened map."""

    def pooled(self, maps: Tensor) -> Tensor:
        return maps.flatten(2).mean(-1)[..., None, None]


@_spelling
class MeanOfView(Sound):
    """The mean over a map viewed as one row."""

    def pooled(self, maps: Tensor) -> Tensor:
        return maps.view(maps.size(0), maps.size(1), -1).mean(dim=2).view(-1, 44, 1, 1)


@_spelling
class AdaptiveFunction(Sound):
    """`F.adaptive_avg_pool2d`."""

    def pooled(self, maps: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(maps, (1, 1))


@_spelling
class AveragePoolOfMapSize(Sound):
    """`nn.AvgPool2d` with the map's size written down."""

    def __init__(self) -> None:
        super().__init__()
        self.gap = nn.AvgPool2d(7)  # type: ignore[assignment]  # stands where the sound one stood


@_spelling
class AveragePoolOfAskedSize(Sound):
    """`F.avg_pool2d` with the map's size asked for."""

    def pooled(self, maps: Tensor) -> Tensor:
        return F.avg_pool2d(maps, maps.shape[2:])


@_spelling
class SumDivided(Sound):
    """The sum over the map divided by its size."""

    def pooled(self, maps: Tensor) -> Tensor:
        return maps.sum((2, 3), keepdim=True) / (maps.shape[2] * maps.shape[3])


@_spelling
class DividedSum(Sound):
    """The sum of parts."""

    def pooled(self, maps: Tensor) -> Tensor:
        return (maps * (1 / 49)).sum(3, keepdim=True).sum(2, keepdim=True)


# Flattening -------------------------------------------------------------------------------------------------------------


class _Scored(Sound):
    """The head's 1x1 maps as rows."""

    def rows(self, maps: Tensor) -> Tensor:
        raise NotImplementedError

    def scores(self, pooled: Tensor) -> Tensor:
        return self.rows(self.head(pooled))


@_spelling
class FlattenFunction(_Scored):
    """`torch.flatten`."""

    def rows(self, maps: Tensor) -> Tensor:
        return torch.flatten(maps, start_dim=1)


@_spelling
class ViewByBatch(_Scored):
    """`view(x.size(0), -1)`."""

    def rows(self, maps: Tensor) -> Tensor:
        return maps.view(maps.size(0), -1)


@_spelling
class ViewByClasses(_Scored):
    """`view(-1, 10)`, on a map that is 1x1 for any image."""

    def rows(self, maps: Tensor) -> Tensor:
        return maps.view(-1, 10)


@_spelling
class ReshapeBySizes(_Scored):
    """`reshape` with every size."""

    def rows(self, maps: Tensor) -> Tensor:
        return maps.reshape(maps.shape[0], 10)


@_spelling
class SqueezeTwice(_Scored):
    """`squeeze` of one dimension after the other."""

    def rows(self, maps: Tensor) -> Tensor:
        return maps.squeeze(3).squeeze(2)


@_spelling
class IndexAway(_Scored):
    """`[..., 0, 0]`."""

    def rows(self, maps: Tensor) -> Tensor:
        return maps[..., 0, 0]


@_spelling
class MeanOfOne(_Scored):
    """The mean of the one position that is left."""

    def rows(self, maps: Tensor) -> Tensor:
        return maps.mean((2, 3))


# Activations and no-ops -------------------------------------------------------------------------------------------------


class _Rectified(Sound):
    """With the rectifier of a subclass."""

    def rectified(self, maps: Tensor) -> Tensor:
        raise NotImplementedError

    def early(self, images: Tensor) -> Tensor:
        maps: Tensor = self.norm(self.rectified(self.conv1(images)))
        return maps

    def late(self, maps: Tensor) -> Tensor:
        return self.rectified(self.conv2(F.max_pool2d(maps, 2)))


@_spelling
class ReluOfTorch(_Rectified):
    """`torch.relu`."""

    def rectified(self, maps: Tensor) -> Tensor:
        return torch.relu(maps)


@_spelling
class ReluMethod(_Rectified):
    """`x.relu_()`."""

    def rectified(self, maps: Tensor) -> Tensor:
        return maps.relu_()


@_spelling
class ReluInPlace(_Rectified):
    """`nn.ReLU(inplace=True)`."""

    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU(inplace=True)

    def rectified(self, maps: Tensor) -> Tensor:
        self.relu(maps)
        return maps


@_spelling
class ReluByClamp(_Rectified):
    """`clamp(min=0)`."""

    def rectified(self, maps: Tensor) -> Tensor:
        return maps.clamp(min=0)


@_spelling
class ReluByThreshold(_Rectified):
    """`F.threshold(x, 0, 0)`."""

    def rectified(self, maps: Tensor) -> Tensor:
        return F.threshold(maps, 0, 0)


@_spelling
class NothingInBetween(_Rectified):
    """Copies, conversions to the same type, identities, and a result that is not used."""

    def __init__(self) -> None:
        super().__init__()
        self.nothing = nn.Identity()

    def rectified(self, maps: Tensor) -> Tensor:
        _ = maps * 2
        same: Tensor = self.nothing(maps.contiguous().float())
        return F.relu(same.clone().to(maps.dtype)) + 0


@_spelling
class TurnedThereAndBack(_Rectified):
    """Channels moved last and back, and another layout in memory."""

    def rectified(self, maps: Tensor) -> Tensor:
        turned = maps.permute(0, 2, 3, 1).contiguous()
        return F.relu(turned.transpose(1, 3).transpose(2, 3).contiguous(memory_format=torch.channels_last))


# Padding, strides, pooling ----------------------------------------------------------------------------------------------


@_spelling
class PadsFirst(Sound):
    """Zeros put around the map by a function, and strides as pairs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, (3, 3), stride=(2, 2), bias=False)

    def early(self, images: Tensor) -> Tensor:
        return super().early(F.pad(images, (1, 1, 1, 1)))


@_spelling
class PadsByModule(Sound):
    """Zeros put around the map by a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, stride=2, bias=False)
        self.pad = nn.ZeroPad2d(1)

    def early(self, images: Tensor) -> Tensor:
        return super().early(self.pad(images))


@_spelling
class PaddingSame(Sound):
    """`padding="same"`."""

    def __init__(self) -> None:
        super().__init__()
        self.conv2 = nn.Conv2d(16, 44, 3, padding="same", bias=False)


@_spelling
class PoolsWithIndices(Sound):
    """Max pooling that also says where, with its stride written out."""

    def late(self, maps: Tensor) -> Tensor:
        largest, _ = F.max_pool2d(maps, (2, 2), stride=(2, 2), return_indices=True)
        return F.relu(self.conv2(largest))


# Softmax ----------------------------------------------------------------------------------------------------------------


@_spelling
class LogSoftmaxLayer(Sound):
    """`nn.LogSoftmax(dim=-1)`."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.LogSoftmax(dim=-1)

    def predict(self, scores: Tensor) -> Tensor:
        logs: Tensor = self.last(scores)
        return logs


@_spelling
class LogOfSoftmax(Sound):
    """The logarithm of the softmax."""

    def predict(self, scores: Tensor) -> Tensor:
        return scores.softmax(1).log()


@_spelling
class LogSoftmaxBeforeFlattening(Sound):
    """Log-softmax over the channels of 1x1 maps."""

    def scores(self, pooled: Tensor) -> Tensor:
        scored: Tensor = self.head(pooled)
        return scored.log_softmax(1).flatten(1)

    def predict(self, scores: Tensor) -> Tensor:
        return scores


# Modules ----------------------------------------------------------------------------------------------------------------


def _layers() -> list[nn.Module]:
    return [
        nn.Conv2d(1, 16, 3, stride=2, padding=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(16),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 44, 3, padding=1, bias=False),
        nn.ReLU(),
        nn.Dropout(0.1),
        nn.AdaptiveAvgPool2d(1),
        nn.Conv2d(44, 10, 1),
        nn.Flatten(),
        nn.LogSoftmax(dim=1),
    ]


@_spelling
class OneSequential(nn.Sequential):
    """`nn.Sequential` and no forward of its own."""

    def __init__(self) -> None:
        super().__init__(*_layers())


@_spelling
class Nested(nn.Module):
    """Sequences in sequences."""

    def __init__(self) -> None:
        super().__init__()
        layers = _layers()
        self.body = nn.Sequential(nn.Sequential(*layers[:4]), nn.Sequential(*layers[4:7]))
        self.tail = nn.Sequential(*layers[7:])

    def forward(self, images: Tensor) -> Tensor:
        """Body, then tail."""
        output: Tensor = self.tail(self.body(images))
        return output


@_spelling
class ModuleListLoop(nn.Module):
    """A loop over an `nn.ModuleList`."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_layers())

    def forward(self, values: Tensor) -> Tensor:
        """One layer after the other."""
        for layer in self.layers:
            values = layer(values)
        return values


@_spelling
class ModuleDictLoop(nn.Module):
    """A loop over an `nn.ModuleDict`."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({f"layer_{place}": layer for place, layer in enumerate(_layers())})

    def forward(self, values: Tensor) -> Tensor:
        """One layer after the other."""
        for layer in self.layers.values():
            values = layer(values)
        return values


class _OwnConvolution(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's own name
        return super().forward(input.clone())


@_spelling
class SubclassedLayers(Sound):
    """Layers of a class derived from nn.Conv2d and others."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = _OwnConvolution(1, 16, 3, stride=2, padding=1, bias=False)
        self.conv2 = _OwnConvolution(16, 44, 3, padding=1, bias=False)


@_spelling
class NothingButFunctions(nn.Module):
    """Plain parameters, and functions."""

    mean: Tensor
    variance: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.empty(16, 1, 3, 3))
        self.gain = nn.Parameter(torch.ones(16))
        self.offset = nn.Parameter(torch.zeros(16))
        self.second = nn.Parameter(torch.empty(44, 16, 3, 3))
        self.last = nn.Parameter(torch.empty(10, 44, 1, 1))
        self.bias = nn.Parameter(torch.empty(10))
        for weight in (self.first, self.second, self.last):
            nn.init.kaiming_uniform_(weight)
        nn.init.zeros_(self.bias)
        self.register_buffer("mean", torch.zeros(16))
        self.register_buffer("variance", torch.ones(16))

    def forward(self, images: Tensor) -> Tensor:
        """All steps in a row."""
        maps = F.relu(F.conv2d(images, self.first, stride=2, padding=1))
        maps = F.batch_norm(maps, self.mean, self.variance, self.gain, self.offset, training=self.training)
        maps = F.relu(F.conv2d(F.max_pool2d(maps, 2), self.second, padding=1))
        pooled = F.adaptive_avg_pool2d(F.dropout(maps, 0.1, self.training), 1)
        return F.log_softmax(F.conv2d(pooled, self.last, self.bias).flatten(1), dim=1)


# Sums -------------------------------------------------------------------------------------------------------------------


@_spelling
class SumSwapped(Skipping):
    """The other way round."""

    def joined(self, maps: Tensor, beside: Tensor) -> Tensor:
        return beside + maps


@_spelling
class SumByFunction(Skipping):
    """`torch.add`."""

    def joined(self, maps: Tensor, beside: Tensor) -> Tensor:
        return torch.add(maps, beside, alpha=1)


@_spelling
class SumInPlace(Skipping):
    """`+=`."""

    def joined(self, maps: Tensor, beside: Tensor) -> Tensor:
        beside += maps
        return beside


@_spelling
class SumOfList(Skipping):
    """Python's `sum`, which begins at 0."""

    def joined(self, maps: Tensor, beside: Tensor) -> Tensor:
        return sum([maps, beside])  # type: ignore[return-value]  # a tensor, since there are some


# Near, and not the same -------------------------------------------------------------------------------------------------


@_near
class OtherPadding(Sound):
    """Two zeros around in place of one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv2.padding = (2, 2)


@_near
class LopsidedPadding(Sound):
    """The same number of zeros, all on one side."""

    def __init__(self) -> None:
        super().__init__()
        self.conv2.padding = (0, 0)

    def late(self, maps: Tensor) -> Tensor:
        return F.relu(self.conv2(F.pad(F.max_pool2d(maps, 2), (2, 0, 2, 0))))


@_near
class PadsWithOnes(Sound):
    """A border of ones."""

    def __init__(self) -> None:
        super().__init__()
        self.conv2.padding = (0, 0)

    def late(self, maps: Tensor) -> Tensor:
        return F.relu(self.conv2(F.pad(F.max_pool2d(maps, 2), (1, 1, 1, 1), value=1.0)))


@_near
class OtherRate(Sound):
    """p = 0.2."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout.p = 0.2


@_near
class DropsWholeChannels(Sound):
    """`nn.Dropout2d`."""

    def dropped(self, maps: Tensor) -> Tensor:
        return F.dropout2d(maps, 0.1, self.training)


@_near
class NoDropout(Sound):
    """None at all: evaluation would be equal."""

    def dropped(self, maps: Tensor) -> Tensor:
        return maps


@_near
class OtherStride(Sound):
    """Overlapping windows of the pooling by two."""

    def late(self, maps: Tensor) -> Tensor:
        return F.relu(self.conv2(F.max_pool2d(maps, 2, stride=1)))


@_near
class OtherMomentum(Sound):
    """Running statistics with another momentum."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(16, momentum=0.2)


@_near
class OtherEpsilon(Sound):
    """Another epsilon."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(16, eps=1e-3)


@_near
class NormFirst(Sound):
    """Batch norm before the activation."""

    def early(self, images: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv1(images)))


@_near
class OtherActivation(Sound):
    """GELU in place of one ReLU."""

    def late(self, maps: Tensor) -> Tensor:
        return F.gelu(self.conv2(F.max_pool2d(maps, 2)))


@_near
class CutAtSix(Sound):
    """ReLU6 in place of one ReLU."""

    def late(self, maps: Tensor) -> Tensor:
        return F.relu6(self.conv2(F.max_pool2d(maps, 2)))


@_near
class MaximumForAverage(Sound):
    """The largest number of each map."""

    def pooled(self, maps: Tensor) -> Tensor:
        return F.adaptive_max_pool2d(maps, 1)


@_near
class AverageForMaximum(Sound):
    """The pooling by two takes averages."""

    def late(self, maps: Tensor) -> Tensor:
        return F.relu(self.conv2(F.avg_pool2d(maps, 2)))


@_near
class SumForAverage(Sound):
    """The sum over the map, not divided."""

    def pooled(self, maps: Tensor) -> Tensor:
        return maps.sum((2, 3), keepdim=True)


@_near
class ScaledByWeight(Sound):
    """One parameter more."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def late(self, maps: Tensor) -> Tensor:
        return self.scale * super().late(maps)


@_near
class ScaledByNumber(Sound):
    """A factor written down."""

    def late(self, maps: Tensor) -> Tensor:
        return 0.5 * super().late(maps)


@_near
class ScaledByOtherNumber(Sound):
    """Another factor."""

    def late(self, maps: Tensor) -> Tensor:
        return 0.25 * super().late(maps)


@_near
class ScaledByLiteral(Sound):
    """A factor a channel, written down."""

    def late(self, maps: Tensor) -> Tensor:
        return super().late(maps) * torch.tensor([1.0, 2.0] * 22).view(44, 1, 1)


@_near
class ScaledByOtherLiteral(Sound):
    """The same factors in another order."""

    def late(self, maps: Tensor) -> Tensor:
        return super().late(maps) * torch.tensor([2.0, 1.0] * 22).view(44, 1, 1)


@_near
class Transposed(Sound):
    """Rows and columns swapped on the way."""

    def late(self, maps: Tensor) -> Tensor:
        return super().late(maps.transpose(2, 3))


@_near
class FrozenFirstLayer(Sound):
    """The first layer is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1.weight.requires_grad_(False)  # noqa: FBT003 - as above


@_near
class WithoutSoftmax(Sound):
    """Scores as they are."""

    def predict(self, scores: Tensor) -> Tensor:
        return scores


@_near
class Difference(Skipping):
    """A difference in place of a sum."""

    def joined(self, maps: Tensor, beside: Tensor) -> Tensor:
        return maps - beside


@_near
class DifferenceSwapped(Skipping):
    """The other way round, which matters here."""

    def joined(self, maps: Tensor, beside: Tensor) -> Tensor:
        return beside - maps


@_near
class WeightedSum(Skipping):
    """One side counts double."""

    def joined(self, maps: Tensor, beside: Tensor) -> Tensor:
        return torch.add(maps, beside, alpha=2)


@_near
class WeightedSumSwapped(Skipping):
    """The other side counts double."""

    def joined(self, maps: Tensor, beside: Tensor) -> Tensor:
        return torch.add(beside, maps, alpha=2)


@_near
class SumWithItself(Skipping):
    """One side twice, the other one not at all."""

    def joined(self, maps: Tensor, beside: Tensor) -> Tensor:
        return maps + maps + 0 * beside


@_near
class SharedWeights(Skipping):
    """The side layer applied twice: the same tensors, used otherwise."""

    def joined(self, maps: Tensor, beside: Tensor) -> Tensor:
        again: Tensor = self.side(beside)
        return maps + again


@_near
class OwnWeights(SharedWeights):
    """The side layer applied twice, with other weights the second time."""

    def __init__(self) -> None:
        super().__init__()
        self.second = nn.Conv2d(33, 33, 1, bias=False)

    def joined(self, maps: Tensor, beside: Tensor) -> Tensor:
        again: Tensor = self.second(beside)
        return maps + again


# Examined ---------------------------------------------------------------------------------------------------------------


@cache
def examined(name: str) -> Examined:
    """What is known of a spelling that has the weights of the first of its group."""
    torch.manual_seed(1)
    original = original_of(name)()
    network = SPELLINGS[name]()
    for mine, its in zip(network.parameters(), original.parameters(), strict=True):
        mine.data.copy_(its.data)
    captured = capture(network, name=name, twice=False)
    findings = {finding.requirement: finding for finding in examine(captured, _CONTRACT, probe=True)}
    images = torch.randn((4, 1, 28, 28), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        outputs = network.eval()(images)
    return Examined(
        digest=identity_digest(captured.graph),
        statuses={requirement: finding.status.value for requirement, finding in findings.items()},
        figures={requirement: findings[requirement].observed for requirement in _FIGURES}
        | {"macs": findings["cost"].observed.partition(" and ")[0]},
        outputs=outputs.tolist(),
    )


def digest_of_near(name: str) -> str:
    """The identity of what is near to a spelling."""
    return identity_digest(capture(NEAR[name](), name=name, twice=False).graph)
