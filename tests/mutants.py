"""A network that satisfies a contract in full, the contract, and networks that each break one requirement of the contract.

A mutant overrides one step of `Sound`. If a broken requirement necessarily changes the outcome of another requirement,
a `Companion` of the mutant names the other requirement, the outcome and the reason.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name every PyTorch reader knows

from harness.contracts import examine, parse_contract
from harness.findings import Finding, Status
from harness.graph import capture

# Every figure is the sound network's own: one more, or one less, is a failure.
CONTRACT = parse_contract(
    """
input = [1, 28, 28]
classes = 10

[head]
output = "log-probabilities"
bare = true

[parameters]
below = 6963
min = 6000

[receptive_field]
min = 13

[gap]
required = true

[dropout]
required = true

[batch_norm]
required = true

[linear]
forbidden = true

[batch]
independent = true
strict_size = true

[gradients]
complete = true

[bias]
before_norm = false

[cost]
max_macs = 339128
max_activation_bytes = 110000
""",
    name="everything",
    place="tests/mutants.py",
)


class Sound(nn.Module):
    """A network for images (B, 1, 28, 28), with log-probabilities (B, 10), that satisfies the contract in full.

    It has 6,962 parameters, 339,128 multiply-accumulates, and a receptive field of 13 pixels before the pooling.
    """

    def __init__(self, *, channels: int = 1, width: int = 44, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 16, 3, stride=2, padding=1, bias=False)  # 14
        self.norm: nn.Module = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, width, 3, padding=1, bias=False)  # 7, after the pooling by two
        self.dropout = nn.Dropout(0.1)
        self.gap = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Conv2d(width, classes, 1)

    def early(self, images: Tensor) -> Tensor:
        """Compute 16 maps of 14x14 from the images."""
        maps: Tensor = self.norm(F.relu(self.conv1(images)))
        return maps

    def late(self, maps: Tensor) -> Tensor:
        """Compute maps of 7x7 from the maps of 14x14."""
        return F.relu(self.conv2(F.max_pool2d(maps, 2)))

    def dropped(self, maps: Tensor) -> Tensor:
        """Apply dropout to the maps of 7x7."""
        kept: Tensor = self.dropout(maps)
        return kept

    def pooled(self, maps: Tensor) -> Tensor:
        """Compute maps of 1x1 by global average pooling."""
        pooled: Tensor = self.gap(maps)
        return pooled

    def scores(self, pooled: Tensor) -> Tensor:
        """Compute one score for each class from the maps of 1x1."""
        scored: Tensor = self.head(pooled)
        return scored.flatten(1)

    def predict(self, scores: Tensor) -> Tensor:
        """Compute log-probabilities from the scores."""
        return F.log_softmax(scores, dim=1)

    def forward(self, images: Tensor) -> Tensor:
        """Apply all steps one after the other."""
        return self.predict(self.scores(self.pooled(self.dropped(self.late(self.early(images))))))


@dataclass(frozen=True, kw_only=True)
class Companion:
    """Another requirement whose outcome a mutant necessarily changes: the changed status, and the reason for the change."""

    status: Status
    reason: str


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """A network that breaks one requirement of the contract.

    Args:
        build: builds the network.
        breaks: the requirement that must fail.
        says: words that the finding must contain, so that the requirement fails for the right reason.
        companions: other requirements whose outcome changes, by name.
        input_shape: shape of the images that the network takes.
    """

    build: Callable[[], nn.Module]
    breaks: str
    says: str
    companions: Mapping[str, Companion] = field(default_factory=dict)
    input_shape: tuple[int, ...] = (1, 28, 28)


MUTANTS: dict[str, Mutant] = {}


def _breaks(
    requirement: str, says: str, *, input_shape: tuple[int, ...] = (1, 28, 28), **companions: Companion
) -> Callable[[type[Sound]], type[Sound]]:
    def enter(build: type[Sound]) -> type[Sound]:
        MUTANTS[build.__name__] = Mutant(
            build=build, breaks=requirement, says=says, companions=companions, input_shape=input_shape
        )
        return build

    return enter


def _fails(reason: str) -> Companion:
    return Companion(status=Status.FAIL, reason=reason)


# Sound in other ways ----------------------------------------------------------------------------------------------------


class Frozen(Sound):
    """The first layer is frozen: its parameters are counted, and need no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1.requires_grad_(requires_grad=False)


class Tied(Sound):
    """One layer has two names and is called twice; its parameters are counted once."""

    def __init__(self) -> None:
        super().__init__(width=38)
        self.mix = nn.Conv2d(38, 38, 1, groups=2, bias=False)
        self.again = self.mix

    def pooled(self, maps: Tensor) -> Tensor:
        pooled = super().pooled(maps)
        mixed: Tensor = self.again(self.mix(pooled))
        return pooled + 0.1 * mixed


class StartsAtZero(Sound):
    """The dropout is on a branch that is multiplied by a weight, which is zero before training."""

    def __init__(self) -> None:
        super().__init__(width=43)
        self.scale = nn.Parameter(torch.zeros(()))

    def dropped(self, maps: Tensor) -> Tensor:
        return maps + self.scale * super().dropped(maps)


class CropsBeforeConvolving(Sound):
    """Part of a map is cut out, but a convolution computes a new map from the cut, and the new map is averaged as a whole."""

    def late(self, maps: Tensor) -> Tensor:
        return super().late(maps[..., :-2, :-2])


class NormsFirst(Sound):
    """Batch norm directly follows a convolution without bias, and ReLU follows batch norm."""

    def early(self, images: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv1(images)))


class KeepsBias(NormsFirst):
    """A convolution with bias precedes batch norm, but another operation also uses the result of the convolution."""

    def __init__(self) -> None:
        super().__init__(width=43)
        self.conv1 = nn.Conv2d(1, 16, 3, stride=2, padding=1)

    def early(self, images: Tensor) -> Tensor:
        maps = self.conv1(images)
        return F.relu(self.norm(maps) + maps)


class DropsByMask(Sound):
    """Dropout is computed with a mask drawn by ``bernoulli``."""

    def dropped(self, maps: Tensor) -> Tensor:
        return maps * torch.bernoulli(torch.full_like(maps, 0.9)) / 0.9 if self.training else maps


class AveragesByEinsum(Sound):
    """Global average pooling is computed as a sum by ``einsum``."""

    def pooled(self, maps: Tensor) -> Tensor:
        return torch.einsum("bchw->bc", maps)[:, :, None, None] / 49


SOUND: dict[str, type[Sound]] = {
    build.__name__: build
    for build in (
        Sound,
        Frozen,
        Tied,
        StartsAtZero,
        CropsBeforeConvolving,
        NormsFirst,
        KeepsBias,
        DropsByMask,
        AveragesByEinsum,
    )
}


# Capture ----------------------------------------------------------------------------------------------------------------


@_breaks("capture", "two captures of the model differ")
class PythonRandomness(Sound):
    """Each call scales the maps by a random number from Python's ``random``."""

    def early(self, images: Tensor) -> Tensor:
        return super().early(images) * (0.5 + random.random())  # noqa: S311 - no secret


@_breaks("capture", "two captures of the model differ")
class NumpyRandomness(Sound):
    """Each call scales the maps by a random number from NumPy."""

    def early(self, images: Tensor) -> Tensor:
        return super().early(images) * float(1 + np.random.rand())  # noqa: NPY002 - what a student would write


class _Straight(torch.autograd.Function):
    """A threshold with its own definition of the gradient."""

    @staticmethod
    def forward(_: object, maps: Tensor) -> Tensor:
        return (maps > 0).to(maps.dtype)

    @staticmethod
    def backward(_: object, gradient: Tensor) -> Tensor:
        return gradient


@_breaks(
    "capture",
    "an autograd.Function with a backward of its own",
    gradients=_fails("the graph holds the threshold, which passes no gradient"),
)
class OwnBackward(Sound):
    """A threshold has its own backward pass, which does not follow from the forward pass."""

    def late(self, maps: Tensor) -> Tensor:
        passed: Tensor = _Straight.apply(super().late(maps))
        return passed


@_breaks("output", "but of shape (10) for one image", batch=_fails("a single image loses its dimension"))
class SqueezesAll(Sound):
    """A squeeze also removes the batch dimension of a batch of one image."""

    def predict(self, scores: Tensor) -> Tensor:
        return super().predict(scores).squeeze()


@_breaks("output", "the model fails for one image: ValueError")
class NormalisesSingleValues(Sound):
    """Group norm with one value per group raises an error for one image in eager mode, but not in the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.group = nn.GroupNorm(44, 44, affine=False)

    def pooled(self, maps: Tensor) -> Tensor:
        pooled: Tensor = super().pooled(maps)
        normalised: Tensor = self.group(pooled)
        return pooled + normalised


@_breaks("capture", "differs from its captured graph's")
class ShowsAnotherFace(Sound):
    """The network behaves differently while it is exported."""

    def late(self, maps: Tensor) -> Tensor:
        return super().late(maps if torch.compiler.is_exporting() else -maps)


@_breaks("capture", "differs from its captured graph's")
class CountsItsCalls(Sound):
    """Each call adds a number that increases with the number of calls."""

    calls = 0

    def early(self, images: Tensor) -> Tensor:
        self.calls += 1
        return super().early(images) + 0.01 * self.calls


# Input and output -------------------------------------------------------------------------------------------------------


@_breaks("input", "3x28x28", input_shape=(3, 28, 28))
class TakesColours(Sound):
    """The network takes images with three channels instead of one."""

    def __init__(self) -> None:
        super().__init__(channels=3, width=36)


@_breaks("output", "(B, 16)")
class SixteenClasses(Sound):
    """The output has sixteen columns instead of ten."""

    def __init__(self) -> None:
        super().__init__(width=38, classes=16)


@_breaks("output", "logits")
class BareScores(Sound):
    """The output is the scores, without softmax."""

    def predict(self, scores: Tensor) -> Tensor:
        return scores


@_breaks("output", "probabilities of shape")
class Probabilities(Sound):
    """The output is the softmax, without the logarithm."""

    def predict(self, scores: Tensor) -> Tensor:
        return F.softmax(scores, dim=1)


@_breaks("output", "changed log-probabilities")
class DoublesLogProbabilities(Sound):
    """The log-probabilities are multiplied by two."""

    def predict(self, scores: Tensor) -> Tensor:
        return 2 * super().predict(scores)


@_breaks("output", "probabilities of shape")
class ProbabilitiesByExponential(Sound):
    """An exponential after log-softmax removes the logarithm."""

    def predict(self, scores: Tensor) -> Tensor:
        return super().predict(scores).exp()


@_breaks("output", "probabilities of shape", head=_fails("the sigmoid bends each score on its own, as any activation"))
class OneOfMany(Sound):
    """A sigmoid is applied to each class independently."""

    def predict(self, scores: Tensor) -> Tensor:
        return torch.sigmoid(scores)


_OVER_BATCH = "the softmax over the batch makes each prediction depend on the other images"


@_breaks("output", "softmax over another dimension", batch=_fails(_OVER_BATCH))
class LogSoftmaxOverBatch(Sound):
    """Log-softmax is computed over the images instead of the classes."""

    def predict(self, scores: Tensor) -> Tensor:
        return F.log_softmax(scores, dim=0)


@_breaks("output", "softmax over another dimension", batch=_fails(_OVER_BATCH))
class SoftmaxOverBatch(Sound):
    """Softmax is computed over the images instead of the classes."""

    def predict(self, scores: Tensor) -> Tensor:
        return F.softmax(scores, dim=0)


@_breaks(
    "output",
    "softmax over another dimension",
    gradients=_fails("the softmax over a single number is constant: nothing can be learnt through it"),
)
class LogSoftmaxOverOnePosition(Sound):
    """Log-softmax is computed over the single row of a 1x1 map, so that the output is zero for all scores."""

    def scores(self, pooled: Tensor) -> Tensor:
        return F.log_softmax(self.head(pooled), dim=2).flatten(1)

    def predict(self, scores: Tensor) -> Tensor:
        return scores


# Head -------------------------------------------------------------------------------------------------------------------


@_breaks("head", "ReLU after Conv2d head")
class ReluAfterHead(Sound):
    """A ReLU sets negative scores to zero."""

    def scores(self, pooled: Tensor) -> Tensor:
        return F.relu(super().scores(pooled))


@_breaks("head", "clamp after Conv2d head")
class ClampAfterHead(Sound):
    """A clamp sets negative scores to zero."""

    def scores(self, pooled: Tensor) -> Tensor:
        return super().scores(pooled).clamp(min=0)


@_breaks("head", "Tanh after Conv2d head")
class TanhAfterHead(Sound):
    """A tanh limits the scores to the range -1 to 1."""

    def scores(self, pooled: Tensor) -> Tensor:
        return torch.tanh(super().scores(pooled))


@_breaks("head", "BatchNorm2d after Conv2d head", bias=_fails("the norm removes the bias of the head before it"))
class BatchNormAfterHead(Sound):
    """Batch norm is applied to the scores."""

    def __init__(self) -> None:
        super().__init__(width=43)
        self.last = nn.BatchNorm2d(10)

    def scores(self, pooled: Tensor) -> Tensor:
        normalised: Tensor = self.last(self.head(pooled))
        return normalised.flatten(1)


@_breaks("head", "Dropout after Conv2d head")
class DropoutAfterHead(Sound):
    """Dropout is applied to the scores in training."""

    def scores(self, pooled: Tensor) -> Tensor:
        return self.dropped(super().scores(pooled))


@_breaks("head", "Softmax after Conv2d head")
class SoftmaxTwice(Sound):
    """Log-softmax is applied to a softmax, so that the probabilities are nearly uniform."""

    def predict(self, scores: Tensor) -> Tensor:
        return F.log_softmax(F.softmax(scores, dim=1), dim=1)


# Parameters -------------------------------------------------------------------------------------------------------------


class _Shifted(Sound):
    """A network that adds the result of ``shift`` to the 16 maps of 14x14; subclasses define ``shift``."""

    def shift(self) -> Tensor:
        raise NotImplementedError

    def early(self, images: Tensor) -> Tensor:
        return super().early(images) + self.shift()


@_breaks("parameters", "6,963 parameters")
class OneParameterMore(_Shifted):
    """The network has one parameter more than the contract allows."""

    def __init__(self) -> None:
        super().__init__()
        self.extra = nn.Parameter(torch.ones(()))

    def shift(self) -> Tensor:
        return self.extra


@_breaks("parameters", "6,963 parameters")
class OneFrozenParameterMore(OneParameterMore):
    """The network has one parameter more than the contract allows, and this parameter is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.extra.requires_grad_(False)  # noqa: FBT003 - torch names the argument differently from version to version


@_breaks("parameters", "6,978 parameters, 16 of them in constants and buffers")
class WeightsInBuffer(_Shifted):
    """Sixteen weights are stored in a buffer instead of a parameter."""

    extra: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("extra", torch.rand(16, 1, 1))

    def shift(self) -> Tensor:
        return self.extra


@_breaks("parameters", "6,978 parameters, 16 of them in constants and buffers")
class WeightsInUnsavedBuffer(WeightsInBuffer):
    """Sixteen weights are stored in a buffer that is not part of the state dict."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("extra", torch.rand(16, 1, 1), persistent=False)


@_breaks("parameters", "6,978 parameters, 16 of them in constants and buffers")
class WeightsInAttribute(_Shifted):
    """Sixteen weights are stored in a plain tensor attribute instead of a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.extra = torch.rand(16, 1, 1)

    def shift(self) -> Tensor:
        return self.extra


@_breaks("parameters", "6,978 parameters, 16 of them in constants and buffers")
class WeightsInLiteral(_Shifted):
    """Sixteen weights are written as numbers in the forward pass instead of a parameter."""

    def shift(self) -> Tensor:
        return torch.tensor([0.1 * place for place in range(16)]).view(16, 1, 1)


@_breaks("parameters", "6,978 parameters, 16 of them in constants and buffers")
class WeightsNamedLikeStatistics(WeightsInBuffer):
    """Sixteen weights are stored in a buffer with the name of a running mean."""

    running_mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.rand(16, 1, 1))

    def shift(self) -> Tensor:
        return self.running_mean


@_breaks(
    "parameters",
    "6,972 parameters",
    gradients=_fails("what forward never calls gets no gradient"),
)
class NeverCalledLayer(Sound):
    """A layer with parameters is declared and never called."""

    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Linear(9, 1)


@_breaks("parameters", "at least 6,000")
class TooFewParameters(Sound):
    """The network has fewer channels, and so fewer parameters than the contract requires."""

    def __init__(self) -> None:
        super().__init__(width=20)


# Receptive field --------------------------------------------------------------------------------------------------------


@_breaks("receptive_field", "12 pixels (exact)")
class FieldOneSmaller(Sound):
    """A 2x2 kernel in the first convolution reduces the receptive field from thirteen to twelve pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 2, stride=2, bias=False)


@_breaks("receptive_field", "13x12 pixels (exact)")
class FieldOneNarrower(Sound):
    """A 3x2 kernel in the first convolution reduces the receptive field by one pixel along the columns only."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, (3, 2), stride=2, padding=(1, 0), bias=False)


@_breaks("receptive_field", "5x13 pixels (exact)")
class FieldLower(Sound):
    """The second convolution has a 1x3 kernel, which does not enlarge the receptive field along the rows."""

    def __init__(self) -> None:
        super().__init__(width=105)
        self.conv2 = nn.Conv2d(16, 105, (1, 3), padding=(0, 1), bias=False)


# Global average pooling -------------------------------------------------------------------------------------------------


@_breaks("gap", "absent")
class PoolingNotCalled(Sound):
    """The pooling is declared, but ``forward`` takes the middle of the map instead."""

    def pooled(self, maps: Tensor) -> Tensor:
        return maps[..., 3:4, 3:4]


@_breaks("gap", "absent")
class PoolsHalfTheMap(Sound):
    """The average is taken over the left four of seven columns."""

    def pooled(self, maps: Tensor) -> Tensor:
        return maps[..., :4].mean((2, 3), keepdim=True)


@_breaks("gap", "absent")
class PoolsHalfTheMapLater(Sound):
    """The average is taken over the left four of seven columns, with an activation between the cut and the average."""

    def pooled(self, maps: Tensor) -> Tensor:
        return F.relu(torch.split(maps, [4, 3], dim=3)[0]).mean((2, 3), keepdim=True)


@_breaks("gap", "absent", linear=_fails("the classes are read off all positions of a map by a fully connected layer"))
class PoolsByTwo(Sound):
    """A 2x2 average pooling is followed by a head on the flattened 3x3 map."""

    def __init__(self) -> None:
        super().__init__(width=26)
        self.full = nn.Linear(26 * 9, 10)
        del self.head

    def pooled(self, maps: Tensor) -> Tensor:
        return F.avg_pool2d(maps, 2)

    def scores(self, pooled: Tensor) -> Tensor:
        scored: Tensor = self.full(pooled.flatten(1))
        return scored


@_breaks("gap", "absent")
class PoolsTheMaximum(Sound):
    """The pooling takes the maximum of each map."""

    def pooled(self, maps: Tensor) -> Tensor:
        return F.adaptive_max_pool2d(maps, 1)


@_breaks("gap", "absent")
class SumsWithWrongDivisor(Sound):
    """The sum over each map is divided by a number other than the number of positions."""

    def pooled(self, maps: Tensor) -> Tensor:
        return maps.sum((2, 3), keepdim=True) / 48


@_breaks("gap", "absent")
class PoolsByLearntWeights(Sound):
    """The pooling is a weighted average with learnt weights."""

    def __init__(self) -> None:
        super().__init__(width=43)
        self.weights = nn.Parameter(torch.rand(7, 7))

    def pooled(self, maps: Tensor) -> Tensor:
        return (maps * self.weights.flatten().softmax(0).view(7, 7)).sum((2, 3), keepdim=True)


@_breaks("gap", "side branch")
class PoolsOnSideBranch(Sound):
    """The middle position of each map is added to the average, so that the head also depends on it without pooling."""

    def pooled(self, maps: Tensor) -> Tensor:
        return super().pooled(maps) + maps[..., 3:4, 3:4]


@_breaks("gap", "absent", linear=_fails("a convolution whose kernel covers its map is a fully connected layer"))
class ConvolvesTheWholeMap(Sound):
    """A 7x7 convolution replaces the pooling."""

    def __init__(self) -> None:
        super().__init__(width=32)
        self.whole = nn.Conv2d(32, 32, 7, groups=32, bias=False)

    def pooled(self, maps: Tensor) -> Tensor:
        summed: Tensor = self.whole(maps)
        return summed


# Dropout ----------------------------------------------------------------------------------------------------------------


@_breaks("dropout", "p = 0,")
class DropoutOfNothing(Sound):
    """The dropout rate is zero."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.0)


@_breaks("dropout", "declared and never called")
class DropoutNotCalled(Sound):
    """The dropout is declared and never called."""

    def dropped(self, maps: Tensor) -> Tensor:
        return maps


_RANDOM_PREDICTIONS = Companion(
    status=Status.UNKNOWN,
    reason="predictions that are drawn anew in each pass cannot show whether they depend on other images",
)


@_breaks("dropout", "ACTIVE in evaluation", batch=_RANDOM_PREDICTIONS)
class DropoutInEvaluationOnly(Sound):
    """Dropout is applied in evaluation mode instead of training mode."""

    def dropped(self, maps: Tensor) -> Tensor:
        return F.dropout(maps, 0.1, training=not self.training)


@_breaks("dropout", "ACTIVE in evaluation", batch=_RANDOM_PREDICTIONS)
class DropoutLeftOn(Sound):
    """``functional.dropout`` is called without ``training``, so that dropout is also active in evaluation mode."""

    def dropped(self, maps: Tensor) -> Tensor:
        return F.dropout(maps, 0.1)


@_breaks("dropout", "observed: absent")
class DropoutDiscarded(Sound):
    """The result of the dropout is not used."""

    def dropped(self, maps: Tensor) -> Tensor:
        super().dropped(maps)
        return maps


@_breaks("dropout", "observed: absent")
class DropoutTimesZero(Sound):
    """The result of the dropout is multiplied by zero, so that the dropout does not affect the output."""

    def dropped(self, maps: Tensor) -> Tensor:
        return maps + 0.0 * super().dropped(maps)


# Batch norm -------------------------------------------------------------------------------------------------------------


@_breaks("batch_norm", "fixed statistics in training")
class BatchNormFrozen(Sound):
    """Batch norm stays in evaluation mode during training."""

    def train(self, mode: bool = True) -> BatchNormFrozen:  # noqa: FBT001, FBT002 - torch's own signature
        super().train(mode)
        self.norm.eval()
        return self


@_breaks(
    "batch_norm", "BATCH statistics in evaluation", batch=_fails("each image is normalised by the others in its batch")
)
class BatchNormWithoutRunningStatistics(Sound):
    """Batch norm has no running statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(16, track_running_stats=False)


@_breaks(
    "batch_norm", "BATCH statistics in evaluation", batch=_fails("each image is normalised by the others in its batch")
)
class BatchNormByFunction(Sound):
    """Batch norm has running statistics, but they are not used."""

    def early(self, images: Tensor) -> Tensor:
        norm = self.norm
        if not isinstance(norm, nn.BatchNorm2d):
            raise TypeError(norm)
        maps = F.relu(self.conv1(images))
        return F.batch_norm(maps, norm.running_mean, norm.running_var, norm.weight, norm.bias, training=True)


@_breaks("batch_norm", "FIXED statistics in evaluation")
class BatchNormWithoutMomentum(Sound):
    """Batch norm has running statistics that are never updated."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(16, momentum=0.0)


@_breaks("batch_norm", "declared and never called")
class BatchNormNotCalled(Sound):
    """Batch norm is declared without weights and never called."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(16, affine=False)

    def early(self, images: Tensor) -> Tensor:
        return F.relu(self.conv1(images))


@_breaks("batch_norm", "observed: absent")
class GroupNormInstead(Sound):
    """Group norm replaces batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(4, 16)


# Fully connected --------------------------------------------------------------------------------------------------------


@_breaks("linear", "present")
class LinearHead(Sound):
    """The head is a linear layer on the flattened maps."""

    def __init__(self) -> None:
        super().__init__()
        self.full = nn.Linear(44, 10)
        del self.head

    def scores(self, pooled: Tensor) -> Tensor:
        scored: Tensor = self.full(pooled.flatten(1))
        return scored


class _WeightsByHand(Sound):
    """A network whose head is a weight tensor of shape (10, 44) and a bias of shape (10)."""

    def __init__(self) -> None:
        super().__init__()
        del self.head
        self.weight = nn.Parameter(torch.randn(10, 44) / 7)
        self.bias = nn.Parameter(torch.zeros(10))


@_breaks("linear", "present")
class LinearByEinsum(_WeightsByHand):
    """A linear layer is computed by ``einsum``."""

    def scores(self, pooled: Tensor) -> Tensor:
        return torch.einsum("bchw,kc->bk", pooled, self.weight) + self.bias


@_breaks("linear", "present")
class LinearByMatmul(_WeightsByHand):
    """A linear layer is computed by ``matmul``."""

    def scores(self, pooled: Tensor) -> Tensor:
        return pooled.flatten(1) @ self.weight.t() + self.bias


@_breaks("linear", "present")
class LinearByInnerProduct(_WeightsByHand):
    """A linear layer is computed by ``inner``."""

    def scores(self, pooled: Tensor) -> Tensor:
        return torch.inner(pooled.flatten(1), self.weight) + self.bias


@_breaks("linear", "present")
class LinearByBatchedProduct(_WeightsByHand):
    """A linear layer is computed as one matrix product for each image."""

    def scores(self, pooled: Tensor) -> Tensor:
        weights = self.weight.expand(pooled.shape[0], 10, 44)
        return torch.bmm(weights, pooled.flatten(2)).flatten(1) + self.bias


@_breaks("linear", "present")
class LinearBySumOfProducts(_WeightsByHand):
    """A linear layer is computed as the sum of a broadcast product."""

    def scores(self, pooled: Tensor) -> Tensor:
        return (pooled.flatten(1)[:, None] * self.weight).sum(2) + self.bias


@_breaks("linear", "convolution over the whole map", gap=_fails("the whole map is convolved where it was pooled"))
class LinearByFlatConvolution(Sound):
    """A convolution over the flattened map computes each output from all positions."""

    def __init__(self) -> None:
        super().__init__(width=32)
        self.whole = nn.Conv1d(32, 32, 49, groups=32, bias=False)
        self.head = nn.Conv1d(32, 10, 1)  # type: ignore[assignment]  # stands where the sound one stood

    def pooled(self, maps: Tensor) -> Tensor:
        summed: Tensor = self.whole(maps.flatten(2))
        return summed


# Batch ------------------------------------------------------------------------------------------------------------------


@_breaks("batch", "a prediction depends on the other images")
class CentresTheBatch(Sound):
    """The mean over the batch is subtracted from the maps."""

    def late(self, maps: Tensor) -> Tensor:
        maps = super().late(maps)
        return maps - maps.mean(0)


@_breaks("batch", "a prediction depends on the other images")
class ScalesByTheBatch(Sound):
    """The maps are divided by one plus the maximum over the batch, position by position."""

    def late(self, maps: Tensor) -> Tensor:
        maps = super().late(maps)
        return maps / (1 + maps.amax(0))


@_breaks("batch", "depends on the order of the images")
class PredictsForItsNeighbour(Sound):
    """Each image gets the prediction for the previous image in the batch."""

    def scores(self, pooled: Tensor) -> Tensor:
        return super().scores(pooled).roll(1, 0)


@_breaks("batch", "a single image gets another prediction", output=_fails("a single image loses its dimension"))
class SqueezesTheBatchAway(Sound):
    """A squeeze also removes the batch dimension of a batch of one image."""

    def scores(self, pooled: Tensor) -> Tensor:
        scored: Tensor = self.head(pooled)
        return scored.squeeze()

    def predict(self, scores: Tensor) -> Tensor:
        return F.log_softmax(scores, dim=-1)


@_breaks("batch", "more or fewer predictions")
class MoreRowsOnLargerImages(Sound):
    """On larger images, ``view(-1, 10)`` returns further predictions for the additional positions."""

    def pooled(self, maps: Tensor) -> Tensor:
        return F.avg_pool2d(maps, 7, stride=1)

    def scores(self, pooled: Tensor) -> Tensor:
        scored: Tensor = self.head(pooled)
        return scored.view(-1, 10)


# Gradients --------------------------------------------------------------------------------------------------------------


@_breaks("gradients", "no gradient for conv1.weight, norm.weight, norm.bias")
class DetachesTheMiddle(Sound):
    """A ``detach`` in the middle of the network stops the gradients of the earlier layers."""

    def late(self, maps: Tensor) -> Tensor:
        return super().late(maps.detach())


@_breaks("gradients", "no gradient for extra")
class ParameterTimesZero(_Shifted):
    """A parameter is multiplied by zero."""

    def __init__(self) -> None:
        super().__init__(width=43)
        self.extra = nn.Parameter(torch.rand(16, 1, 1))

    def shift(self) -> Tensor:
        return 0 * self.extra


@_breaks("gradients", "not finite for conv1.weight")
class RootOfZero(Sound):
    """The square root of a dropped number, which is zero, has an infinite gradient."""

    def dropped(self, maps: Tensor) -> Tensor:
        return super().dropped(maps).sqrt()


@_breaks("gradients", "the backward pass fails")
class DropsInPlace(Sound):
    """Dropout changes in place the values that ReLU saved for the backward pass."""

    def dropped(self, maps: Tensor) -> Tensor:
        return F.dropout(maps, 0.1, self.training, inplace=True)


@_breaks("gradients", "no gradient for other.weight, other.bias")
class PredictsWithAnotherHead(Sound):
    """The network trains one head and predicts with another head, which keeps the initial weights."""

    def __init__(self) -> None:
        super().__init__(width=40)
        self.other = nn.Conv2d(40, 10, 1)

    def scores(self, pooled: Tensor) -> Tensor:
        scored: Tensor = (self.head if self.training else self.other)(pooled)
        return scored.flatten(1)


# Bias -------------------------------------------------------------------------------------------------------------------


@_breaks("bias", "16 parameters without effect, in Conv2d conv1")
class BiasBeforeNorm(NormsFirst):
    """Batch norm removes the bias of the preceding convolution."""

    def __init__(self) -> None:
        super().__init__(width=43)
        self.conv1 = nn.Conv2d(1, 16, 3, stride=2, padding=1)


@_breaks("bias", "16 parameters without effect, in Conv2d")
class BiasBeforeNormByHand(NormsFirst):
    """A bias is added before batch norm, which removes the bias."""

    def __init__(self) -> None:
        super().__init__(width=43)
        self.shift = nn.Parameter(torch.zeros(16, 1, 1))

    def early(self, images: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv1(images) + self.shift))


# Cost -------------------------------------------------------------------------------------------------------------------


@_breaks("cost", "multiply-accumulates")
class LargerMaps(Sound):
    """More padding gives maps of 9x9 with the same weights."""

    def __init__(self) -> None:
        super().__init__()
        self.conv2 = nn.Conv2d(16, 44, 3, padding=2, bias=False)


@_breaks("cost", "bytes of activations")
class BlownUpMaps(Sound):
    """The maps are resized to 56x56 and back, which needs memory and has no use."""

    def late(self, maps: Tensor) -> Tensor:
        return super().late(F.max_pool2d(F.interpolate(maps, scale_factor=4), 4))


@_breaks("cost", "multiply-accumulates")
class CostlyEinsum(Sound):
    """An ``einsum`` of the pooled numbers with themselves adds multiply-accumulates that belong to no layer."""

    def pooled(self, maps: Tensor) -> Tensor:
        pooled = super().pooled(maps)
        flat = pooled.flatten(1)
        return pooled + 0.001 * torch.einsum("bc,bd,be->bc", flat, flat, flat)[..., None, None]


# Examined ---------------------------------------------------------------------------------------------------------------


@cache
def examined(name: str) -> tuple[Finding, ...]:
    """Return the findings, experiments included, about the mutant or the sound network with this name."""
    mutant = MUTANTS.get(name)
    build, shape = (mutant.build, mutant.input_shape) if mutant else (SOUND[name], (1, 28, 28))
    torch.manual_seed(1)
    # Only a capture that is no faithful one takes two to tell.
    twice = mutant is not None and mutant.breaks == "capture"
    return examine(capture(build(), shape, name=name, twice=twice), CONTRACT, probe=True)
