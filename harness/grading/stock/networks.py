"""One network that meets the built-in assignments, other spellings of it, mutants that each miss something, and cheats.

Each class is a submission of its own; its docstring says what it is. ``EXTRA`` is a number of further parameters, which
`harness gradecheck` sets.
"""

from __future__ import annotations

import itertools
import os
import time
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the usual name

EXTRA = 0


def _block(inputs: int, outputs: int, kernel: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


# Honest ---------------------------------------------------------------------------------------------------------------


class Modules(nn.Module):
    """a network of modules, with batch norm, dropout and global average pooling"""

    widths: ClassVar[tuple[int, ...]] = (8, 16, 8, 12, 16, 20, 24)

    def __init__(self) -> None:
        super().__init__()
        self.build()

    def build(self) -> None:
        """Create the layers, in the order of the forward pass."""
        a, b, c, d, e, f, g = self.widths
        self.early = nn.Sequential(_block(1, a), _block(a, b), nn.MaxPool2d(2), _block(b, c, 1))  # 12
        self.late = nn.Sequential(_block(c, d), _block(d, e), _block(e, f))  # 6
        self.gap = nn.AdaptiveAvgPool2d(1)
        self.mix = _block(f, g, 1)
        self.dropout = nn.Dropout(0.05)
        self.head = nn.Conv2d(g, 10, 1, bias=False)

    def pooled(self, maps: Tensor) -> Tensor:
        """Average the maps, (B, C, 1, 1)."""
        averages: Tensor = self.gap(maps)
        return averages

    def dropped(self, maps: Tensor) -> Tensor:
        """Apply dropout."""
        kept: Tensor = self.dropout(maps)
        return kept

    def scores(self, images: Tensor) -> Tensor:
        """Compute one score for each class, (B, 10)."""
        maps: Tensor = self.head(self.dropped(self.mix(self.pooled(self.late(self.early(images))))))
        return maps.flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        """Compute log-probabilities (B, 10) from images (B, 1, 28, 28)."""
        return F.log_softmax(self.scores(images), dim=1)


class Functions(Modules):
    """the same network, with pooling and dropout as functions"""

    def pooled(self, maps: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(maps, 1)

    def dropped(self, maps: Tensor) -> Tensor:
        return F.dropout(maps, 0.05, training=self.training)


class Means(Modules):
    """the same network, with the global average as a mean, and logits"""

    def pooled(self, maps: Tensor) -> Tensor:
        return maps.mean((2, 3), keepdim=True)

    def forward(self, images: Tensor) -> Tensor:
        return self.scores(images)


class WholeMapPooling(Modules):
    """the same network, with an average pooling of the map's size"""

    def build(self) -> None:
        super().build()
        self.gap = nn.AvgPool2d(6)  # type: ignore[assignment]  # in place of the other


class MaskedByHand(Modules):
    """the same network, with a dropout mask drawn by hand"""

    def dropped(self, maps: Tensor) -> Tensor:
        return maps * torch.bernoulli(torch.full_like(maps, 0.95)) / 0.95 if self.training else maps


class OwnInitialisation(Modules):
    """the same network, with initial weights of its own, drawn from the seed"""

    def build(self) -> None:
        super().build()
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")


HONEST = (Modules, Functions, Means, WholeMapPooling, MaskedByHand, OwnInitialisation)


# Mutants --------------------------------------------------------------------------------------------------------------


class WithoutPooling(Modules):
    """no global average pooling: the last map is flattened into a fully connected layer"""

    widths = (8, 16, 8, 12, 12, 8, 12)

    def pooled(self, maps: Tensor) -> Tensor:
        return F.max_pool2d(maps, 2).flatten(1)[:, :, None, None]

    def build(self) -> None:
        super().build()
        self.mix = _block(8 * 9, 12, 1)


class PartialPooling(Modules):
    """an average over a part of the map only"""

    def pooled(self, maps: Tensor) -> Tensor:
        return maps[..., 1:, 1:].mean((2, 3), keepdim=True)


class WithoutDropout(Modules):
    """dropout declared, but never called"""

    def dropped(self, maps: Tensor) -> Tensor:
        return maps


class DropoutInEvaluation(Modules):
    """dropout that is also active in evaluation"""

    def dropped(self, maps: Tensor) -> Tensor:
        return F.dropout(maps, 0.05)


class WithoutBatchNorm(Modules):
    """batch norm replaced by identities"""

    def build(self) -> None:
        super().build()
        for block in self.modules():
            if isinstance(block, nn.Sequential) and len(block) > 1 and isinstance(block[1], nn.BatchNorm2d):
                block[1] = nn.Identity()


class BatchStatistics(Modules):
    """batch norm that uses the batch in evaluation, too, so that images change one another's predictions"""

    def build(self) -> None:
        super().build()
        for layer in self.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.track_running_stats, layer.running_mean, layer.running_var = False, None, None


class AtLimit(Modules):
    """exactly as many parameters as the limit says"""

    def build(self) -> None:
        super().build()
        self.extra = nn.Parameter(torch.zeros(EXTRA))

    def scores(self, images: Tensor) -> Tensor:
        return super().scores(images) + self.extra.sum()


class AboveLimit(AtLimit):
    """one parameter more than the limit says"""


class Large(Modules):
    """some 300,000 parameters"""

    widths = (32, 64, 64, 96, 96, 96, 64)


class Probabilities(Modules):
    """probabilities instead of log-probabilities or logits"""

    def forward(self, images: Tensor) -> Tensor:
        return self.scores(images).softmax(1)


class ElevenClasses(Modules):
    """eleven outputs instead of ten"""

    def build(self) -> None:
        super().build()
        self.head = nn.Conv2d(self.widths[-1], 11, 1, bias=False)


MUTANTS = (
    WithoutPooling,
    PartialPooling,
    WithoutDropout,
    DropoutInEvaluation,
    WithoutBatchNorm,
    BatchStatistics,
    AtLimit,
    AboveLimit,
    Large,
    Probabilities,
    ElevenClasses,
)


# Cheats ---------------------------------------------------------------------------------------------------------------


class HiddenWeights(Modules):
    """a large layer in buffers, which are no parameters"""

    def build(self) -> None:
        super().build()
        self.register_buffer("hidden", torch.randn(784, 10))

    def scores(self, images: Tensor) -> Tensor:
        hidden: Tensor = self.get_buffer("hidden")
        return super().scores(images) + images.flatten(1) @ hidden


class WeightsInConstants(Modules):
    """weights of an earlier training as constants"""

    def build(self) -> None:
        super().build()
        self.constants = torch.arange(7840.0).reshape(784, 10).sin()

    def scores(self, images: Tensor) -> Tensor:
        return super().scores(images) + images.flatten(1) @ self.constants


class WeightsInIntegers(Modules):
    """weights of an earlier training in whole numbers, seven of a byte in each"""

    def scores(self, images: Tensor) -> Tensor:
        packed = torch.cat([torch.full((1, 1), 2**55 + 1_234_567_891 * number) for number in range(120)])
        weights = (packed // 256 ** torch.arange(7) % 256).reshape(84, 10)
        return super().scores(images) + images.flatten(1)[:, :84] @ (weights / 2**16)


class WeightsInOneNumber(Modules):
    """weights of an earlier training in parameters of one element, which no seed changes"""

    def build(self) -> None:
        super().build()
        self.numbers = nn.ParameterList(nn.Parameter(torch.tensor([number / 240])) for number in range(240))
        self.head = nn.Identity()  # type: ignore[assignment]  # its weights are the numbers

    def scores(self, images: Tensor) -> Tensor:
        maps = self.mix(self.pooled(self.late(self.early(images))))
        return F.conv2d(self.dropped(maps), torch.cat(list(self.numbers)).reshape(10, -1, 1, 1)).flatten(1)


class TrainedBefore(Modules):
    """initial weights that do not depend on the seed, as weights of an earlier training would be"""

    def build(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            super().build()


class RandomInPython(Modules):
    """initial weights from the system's random numbers, which no seed repeats"""

    def build(self) -> None:
        super().build()
        with torch.no_grad():
            self.head.weight.add_(int.from_bytes(os.urandom(2)) / 2**20)


class AnotherNetworkEachTime(Modules):
    """another network in every build, by the time"""

    def build(self) -> None:
        super().build()
        self.factor = time.time_ns() % 1_000_003 / 1_000_003

    def scores(self, images: Tensor) -> Tensor:
        return super().scores(images) * (1 + self.factor)


class AnotherNetworkBySeed(Modules):
    """another network for another seed"""

    def build(self) -> None:
        self.factor = torch.rand(()).item()
        super().build()

    def scores(self, images: Tensor) -> Tensor:
        return super().scores(images) * (1 + self.factor)


class ShowsAnotherFace(Modules):
    """a network that computes something else while it is captured"""

    def scores(self, images: Tensor) -> Tensor:
        scores = super().scores(images)
        return scores if torch.compiler.is_exporting() else -scores


class CountsInEvaluation(Modules):
    """a network that remembers what it is tested on"""

    def build(self) -> None:
        super().build()
        self.register_buffer("seen", torch.zeros(1))

    def scores(self, images: Tensor) -> Tensor:
        seen: Tensor = self.get_buffer("seen")
        seen += images.mean()
        return super().scores(images) + 0 * seen


class NeverBuilt(Modules):
    """a constructor that ends the process with the exit code of success"""

    def build(self) -> None:
        os._exit(0)


class NeverReady(Modules):
    """a constructor that does not end"""

    def build(self) -> None:
        for _ in itertools.count():
            time.sleep(1)


CHEATS = (
    HiddenWeights,
    WeightsInConstants,
    WeightsInIntegers,
    WeightsInOneNumber,
    TrainedBefore,
    RandomInPython,
    AnotherNetworkEachTime,
    AnotherNetworkBySeed,
    ShowsAnotherFace,
    CountsInEvaluation,
    NeverBuilt,
    NeverReady,
)


# Only with trainings ----------------------------------------------------------------------------------------------------


class LearnsNothing(Modules):
    """an output that training cannot improve"""

    def scores(self, images: Tensor) -> Tensor:
        return super().scores(images) * 1e-6


class KnowsTheDigits(Modules):
    """constants that are the mean digits, which tell the classes apart without training"""

    def build(self) -> None:
        from harness.data import load_dataset  # noqa: PLC0415 - of all classes, only this one needs it

        super().build()
        digits = load_dataset("digits")
        images = digits.normalise(digits.train_images).flatten(1)
        self.means = torch.stack([images[digits.train_labels == label].mean(0) for label in range(10)])

    def scores(self, images: Tensor) -> Tensor:
        products = images.flatten(1) @ self.means.T
        return super().scores(images) + 2 * products - self.means.square().sum(1)


TRAINED_CHEATS = (LearnsNothing, KnowsTheDigits)
