"""The networks, built from shared blocks; each function lists the stages in the order of the forward pass.

Every network takes images of shape (B, 1, 28, 28) and returns log-probabilities of shape (B, 10). The comment at a
stage is the side length of the square output map. Stages are created in the order of the published code, so that a seed
gives the same initial weights as the published code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the usual name

if TYPE_CHECKING:
    from collections.abc import Callable

CLASSES = 10


# Blocks ---------------------------------------------------------------------------------------------------------------


def conv(inputs: int, outputs: int, kernel: int = 3, *, padding: int = 0, dilation: int = 1) -> nn.Conv2d:
    """A convolution without bias, with stride 1."""
    return nn.Conv2d(inputs, outputs, kernel, padding=padding, dilation=dilation, bias=False)


def act(inputs: int, outputs: int, *, dropout: float) -> nn.Sequential:
    """A block of a 3x3 convolution without bias, ReLU and dropout, in this order."""
    return nn.Sequential(conv(inputs, outputs), nn.ReLU(), nn.Dropout(dropout))


def act_norm(
    inputs: int,
    outputs: int,
    *,
    dropout: float,
    padding: int = 0,
    activation: type[nn.Module] | None = nn.ReLU,
) -> nn.Sequential:
    """A block of a 3x3 convolution without bias, activation (unless ``None``), batch norm and dropout, in this order."""
    layers: list[nn.Module] = [conv(inputs, outputs, padding=padding)]
    if activation is not None:
        layers.append(activation())
    return nn.Sequential(*layers, nn.BatchNorm2d(outputs), nn.Dropout(dropout))


def norm_act(
    inputs: int, outputs: int, kernel: int = 3, *, dilation: int = 1, dropout: float | None = None
) -> nn.Sequential:
    """A block of convolution without bias, batch norm, ReLU and, if ``dropout`` is given, dropout, in this order."""
    layers: list[nn.Module] = [conv(inputs, outputs, kernel, dilation=dilation), nn.BatchNorm2d(outputs), nn.ReLU()]
    if dropout is not None:
        layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers)


def log_probabilities(maps: Tensor) -> Tensor:
    """Return the log-probabilities (B, 10) of class scores of shape (B, 10, 1, 1)."""
    return F.log_softmax(maps.flatten(1), dim=1)


class Chain(nn.Module):
    """Named stages that are applied one after the other, followed by log-softmax."""

    def __init__(self, **stages: nn.Module) -> None:
        """Take the stages in the order of the forward pass; each stage becomes a submodule with the name of the argument."""
        super().__init__()
        self._order = tuple(stages)
        for name, stage in stages.items():
            self.add_module(name, stage)

    def forward(self, images: Tensor) -> Tensor:
        """Return the log-probabilities (B, 10) of images (B, 1, 28, 28)."""
        maps = images
        for name in self._order:
            maps = self.get_submodule(name)(maps)
        return log_probabilities(maps)


# Reference model ------------------------------------------------------------------------------------------------------


def reference() -> nn.Module:
    """The reference model, which meets ``era-s7`` and has a steady accuracy in the last epochs.

    The pooling has stride 1, and the convolutions behind it have dilation 2 in exchange: each map position has the weights and
    the receptive field that it would have behind a pooling with stride 2, and four times as many positions are averaged.
    """
    return Chain(
        block1=norm_act(1, 8),  # 26
        block2=norm_act(8, 16),  # 24
        pool=nn.MaxPool2d(2, stride=1),  # 23
        transition=norm_act(16, 8, kernel=1),  # 23
        block3=norm_act(8, 12, dilation=2),  # 19
        block4=norm_act(12, 16, dilation=2),  # 15
        block5=norm_act(16, 20, dilation=2),  # 11
        gap=nn.AdaptiveAvgPool2d(1),  # 1
        mix=norm_act(20, 24, kernel=1),
        dropout=nn.Dropout(0.01),
        head=conv(24, CLASSES, kernel=1),
    )


def reference_small() -> nn.Module:
    """A network below 6,128 parameters: as `reference`, but narrower, with SiLU, and with stride 2 instead of dilation."""

    def stage(inputs: int, outputs: int, kernel: int = 3) -> nn.Sequential:
        return nn.Sequential(conv(inputs, outputs, kernel), nn.BatchNorm2d(outputs), nn.SiLU())

    return Chain(
        block1=stage(1, 8),  # 26
        block2=stage(8, 12),  # 24
        pool=nn.MaxPool2d(2),  # 12
        transition=stage(12, 8, kernel=1),  # 12
        block3=stage(8, 12),  # 10
        block4=stage(12, 14),  # 8
        block5=stage(14, 16),  # 6
        gap=nn.AdaptiveAvgPool2d(1),  # 1
        mix=stage(16, 16, kernel=1),
        dropout=nn.Dropout(0.01),
        head=conv(16, CLASSES, kernel=1),
    )


# Cloud and pipeline: two authors, the same three architectures --------------------------------------------------------


def _wide(*, dropout: float) -> nn.Module:
    return Chain(
        block1=act_norm(1, 16, dropout=dropout),  # 26
        block2=act_norm(16, 32, dropout=dropout),  # 24
        transition=conv(32, 10, kernel=1),  # 24
        pool=nn.MaxPool2d(2),  # 12
        block3=act_norm(10, 16, dropout=dropout),  # 10
        block4=act_norm(16, 16, dropout=dropout),  # 8
        block5=act_norm(16, 16, dropout=dropout),  # 6
        block6=act_norm(16, 16, padding=1, dropout=dropout),  # 6
        gap=nn.AvgPool2d(6),  # 1
        head=conv(16, CLASSES, kernel=1),
    )


def _narrow(*, dropout: float) -> nn.Module:
    return Chain(
        block1=act_norm(1, 8, dropout=dropout),  # 26
        block2=act_norm(8, 16, dropout=dropout),  # 24
        transition=conv(16, 8, kernel=1),  # 24
        pool=nn.MaxPool2d(2),  # 12
        block3=act_norm(8, 12, dropout=dropout),  # 10
        block4=act_norm(12, 12, dropout=dropout),  # 8
        block5=act_norm(12, 12, padding=1, dropout=dropout),  # 8
        gap=nn.AvgPool2d(8),  # 1
        head=conv(12, CLASSES, kernel=1),
    )


class GatedSkips(nn.Module):
    """GELU blocks with two shortcuts around unpadded convolutions; the last maps are multiplied by the sigmoid of their means."""

    def __init__(self, *, dropout: float) -> None:
        """Take the dropout rate of all blocks."""
        super().__init__()

        def block(inputs: int, outputs: int, padding: int = 0) -> nn.Sequential:
            return act_norm(inputs, outputs, padding=padding, dropout=dropout, activation=nn.GELU)

        self.block1 = block(1, 10)  # 26
        self.block2 = block(10, 14)  # 24
        self.transition = conv(14, 10, kernel=1)  # 24
        self.pool = nn.MaxPool2d(2)  # 12
        self.block3 = block(10, 14)  # 10
        self.block4 = block(14, 14)  # 8
        self.block5 = block(14, 12)  # 6
        self.block6 = block(12, 12, padding=1)  # 6
        self.gap = nn.AvgPool2d(6)  # 1
        self.head = conv(12, CLASSES, kernel=1)
        self.skip1 = conv(10, 14, kernel=1)  # from the pool to the output of block3
        self.skip2 = conv(14, 12, kernel=1)  # from there to the output of block5

    def forward(self, images: Tensor) -> Tensor:
        """Return the log-probabilities (B, 10) of images (B, 1, 28, 28)."""
        pooled = self.pool(self.transition(self.block2(self.block1(images))))
        near = self.block3(pooled)
        near = near + self.skip1(F.interpolate(pooled, size=near.shape[2:]))
        far = self.block5(self.block4(near))
        far = far + self.skip2(F.interpolate(near, size=far.shape[2:]))
        maps = self.block6(far)
        maps = maps * torch.sigmoid(F.adaptive_avg_pool2d(maps, 1))
        return log_probabilities(self.head(self.gap(maps)))


def cloud_1() -> nn.Module:
    """The first of the three models named cloud: six blocks, and a dropout module that is never called."""
    network = _wide(dropout=0.1)
    network.dropout = nn.Dropout(0.1)
    return network


def cloud_2() -> nn.Module:
    """The second of the three models named cloud: five blocks, with half the channels of ``cloud_1``."""
    return _narrow(dropout=0.1)


def cloud_3() -> nn.Module:
    """The third of the three models named cloud: GELU, two shortcuts, and channels scaled by the sigmoid of their means."""
    return GatedSkips(dropout=0.03)


def pipeline_first() -> nn.Module:
    """The first of the three models named pipeline: the stages of ``cloud_1`` with a dropout rate of 0.03."""
    return _wide(dropout=0.03)


def pipeline_second() -> nn.Module:
    """The second of the three models named pipeline: the network of ``cloud_2``."""
    return _narrow(dropout=0.1)


def pipeline_third() -> nn.Module:
    """The third of the three models named pipeline: the network of ``cloud_3``."""
    return GatedSkips(dropout=0.03)


# Receptive field study: three 3x3 blocks before the pool, two after it ------------------------------------------------


def rf_study_1() -> nn.Module:
    """The first model of the receptive field study: no batch norm, and a 7x7 convolution as the head."""
    return Chain(
        block1=act(1, 8, dropout=0.1),  # 26
        block2=act(8, 16, dropout=0.1),  # 24
        block3=act(16, 24, dropout=0.1),  # 22
        pool=nn.MaxPool2d(2),  # 11
        transition=conv(24, 8, kernel=1),  # 11
        block4=act(8, 16, dropout=0.1),  # 9
        block5=act(16, 24, dropout=0.1),  # 7
        reduce=conv(24, 10, kernel=1),  # 7
        head=conv(10, CLASSES, kernel=7),  # 1
    )


def rf_study_2() -> nn.Module:
    """The second model of the receptive field study: with batch norm, and a second block without activation."""
    return Chain(
        block1=act_norm(1, 8, dropout=0.1),  # 26
        block2=act_norm(8, 16, activation=None, dropout=0.1),  # 24
        block3=act_norm(16, 24, dropout=0.1),  # 22
        pool=nn.MaxPool2d(2),  # 11
        transition=conv(24, 8, kernel=1),  # 11
        block4=act_norm(8, 16, dropout=0.1),  # 9
        block5=act_norm(16, 24, dropout=0.1),  # 7
        reduce=conv(24, 10, kernel=1),  # 7
        head=conv(10, CLASSES, kernel=7),  # 1
    )


def _pooled_study(*, early: int, late: int) -> nn.Module:
    return Chain(
        block1=act_norm(1, 8, dropout=0.1),  # 26
        block2=act_norm(8, early, activation=None, dropout=0.1),  # 24
        block3=act_norm(early, 16, dropout=0.1),  # 22
        pool=nn.MaxPool2d(2),  # 11
        transition=conv(16, 8, kernel=1),  # 11
        block4=act_norm(8, late, dropout=0.1),  # 9
        block5=act_norm(late, 16, dropout=0.1),  # 7
        head=conv(16, CLASSES, kernel=1),  # 7
        gap=nn.AvgPool2d(7),  # 1
    )


def rf_study_3() -> nn.Module:
    """The smallest model of the receptive field study: average pooling replaces the 7x7 convolution."""
    return _pooled_study(early=8, late=8)


def rf_study_4() -> nn.Module:
    """The network of ``rf_study_3`` with twice the channels in the second and the fourth block."""
    return _pooled_study(early=16, late=16)


def rf_study_5() -> nn.Module:
    """The last model of the receptive field study: a padded block on 9x9 maps, and average pooling before the 1x1 head."""
    return Chain(
        block1=act_norm(1, 6, dropout=0.1),  # 26
        block2=act_norm(6, 16, activation=None, dropout=0.1),  # 24
        block3=act_norm(16, 20, dropout=0.1),  # 22
        pool=nn.MaxPool2d(2),  # 11
        transition=conv(20, 6, kernel=1),  # 11
        block4=act_norm(6, 16, dropout=0.1),  # 9
        block5=act_norm(16, 20, padding=1, dropout=0.1),  # 9
        gap=nn.AvgPool2d(9),  # 1
        head=conv(20, CLASSES, kernel=1),
    )


# Five steps: from six million parameters to eight thousand -------------------------------------------------------------


def five_step_1() -> nn.Module:
    """The first of five steps: six million parameters in seven convolutions with bias, without batch norm and dropout."""

    def block(inputs: int, outputs: int, padding: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=padding), nn.ReLU())

    return Chain(
        block1=block(1, 32, padding=1),  # 28
        block2=block(32, 64, padding=1),  # 28
        pool1=nn.MaxPool2d(2),  # 14
        block3=block(64, 128, padding=1),  # 14
        block4=block(128, 256, padding=1),  # 14
        pool2=nn.MaxPool2d(2),  # 7
        block5=block(256, 512, padding=0),  # 5
        block6=block(512, 1024, padding=0),  # 3
        head=nn.Conv2d(1024, CLASSES, 3),  # 1
    )


class SharedDropout(nn.Module):
    """A network of seven blocks and a head, with one dropout module that is called three times."""

    def __init__(self, *, averaged: bool) -> None:
        """Build the head: an average over the 7x7 maps if ``averaged``, otherwise a 7x7 convolution."""
        super().__init__()
        self.block1 = norm_act(1, 10)  # 26
        self.block2 = norm_act(10, 10)  # 24
        self.block3 = norm_act(10, 20)  # 22
        self.pool = nn.MaxPool2d(2)  # 11
        self.transition = norm_act(20, 10, kernel=1)  # 11
        self.block4 = norm_act(10, 10)  # 9
        self.block5 = norm_act(10, 10)  # 7
        self.reduce = norm_act(10, 10, kernel=1)  # 7
        self.head = nn.AvgPool2d(7) if averaged else conv(10, CLASSES, kernel=7)  # 1
        self.dropout = nn.Dropout(0.1)

    def forward(self, images: Tensor) -> Tensor:
        """Return the log-probabilities (B, 10) of images (B, 1, 28, 28)."""
        maps = self.dropout(self.block3(self.block2(self.block1(images))))
        maps = self.dropout(self.block4(self.transition(self.pool(maps))))
        maps = self.dropout(self.reduce(self.block5(maps)))
        return log_probabilities(self.head(maps))


def five_step_2() -> nn.Module:
    """The second of five steps: a small network with a 7x7 convolution as the head."""
    return SharedDropout(averaged=False)


def five_step_3() -> nn.Module:
    """The third of five steps: the network of ``five_step_2`` with average pooling as the head."""
    return SharedDropout(averaged=True)


def five_step_4() -> nn.Module:
    """The fourth of five steps: a 1x1 block after the average pooling, and a ReLU that clips the scores before the softmax."""
    return Chain(
        block1=norm_act(1, 8, dropout=0.025),  # 26
        block2=norm_act(8, 16, dropout=0.025),  # 24
        pool=nn.MaxPool2d(2),  # 12
        transition=norm_act(16, 8, kernel=1, dropout=0.025),  # 12
        block3=norm_act(8, 12, dropout=0.025),  # 10
        block4=norm_act(12, 16, dropout=0.025),  # 8
        block5=norm_act(16, 20, dropout=0.025),  # 6
        gap=nn.AvgPool2d(6),  # 1
        mix=norm_act(20, 24, kernel=1, dropout=0.025),
        head=conv(24, CLASSES, kernel=1),
        clip=nn.ReLU(),
    )


def five_step_5() -> nn.Module:
    """The last of five steps: the network of ``five_step_4``, with another recipe."""
    return five_step_4()


BUILDERS: dict[str, Callable[[], nn.Module]] = {
    builder.__name__: builder
    for builder in (
        reference,
        reference_small,
        cloud_1,
        cloud_2,
        cloud_3,
        pipeline_first,
        pipeline_second,
        pipeline_third,
        rf_study_1,
        rf_study_2,
        rf_study_3,
        rf_study_4,
        rf_study_5,
        five_step_1,
        five_step_2,
        five_step_3,
        five_step_4,
        five_step_5,
    )
}
