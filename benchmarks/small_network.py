"""The family of networks from which `reference_small` is chosen by `small_network_search.py`."""

from __future__ import annotations

from torch import nn

ACTIVATIONS = {"relu": nn.ReLU, "silu": nn.SiLU}


class SmallNetwork(nn.Sequential):
    """A network with the stages of `reference` and other widths; maps images (B, 1, 28, 28) to logits (B, 10).

    Args:
        widths: output channels of the two 3x3 convolutions before the pooling, the 1x1 convolution after the pooling,
            the three 3x3 convolutions before the global average, and the 1x1 convolution after the global average.
        activation: ``relu`` or ``silu``, applied after each batch norm.
        dropout: probability of the dropout before the head, which the contract `reference` requires; 0 for none.
        stride: that of the pooling. With 1, the convolutions behind it have dilation 2, as in `reference`.
    """

    def __init__(
        self,
        widths: tuple[int, ...] = (8, 16, 8, 12, 16, 20, 24),
        activation: str = "silu",
        dropout: float = 0.0,
        stride: int = 2,
    ) -> None:
        """Build the stages in the order of the forward pass."""
        first, second, transition, third, fourth, fifth, mix = widths
        dilation = 2 // stride

        def block(inputs: int, outputs: int, kernel: int, dilation: int = 1) -> nn.Sequential:
            convolution = nn.Conv2d(inputs, outputs, kernel, dilation=dilation, bias=False)
            return nn.Sequential(convolution, nn.BatchNorm2d(outputs), ACTIVATIONS[activation]())

        super().__init__(
            block(1, first, 3),
            block(first, second, 3),
            nn.MaxPool2d(2, stride),
            block(second, transition, 1),
            block(transition, third, 3, dilation),
            block(third, fourth, 3, dilation),
            block(fourth, fifth, 3, dilation),
            nn.AdaptiveAvgPool2d(1),
            block(fifth, mix, 1),
            *([nn.Dropout(dropout)] if dropout else []),
            nn.Conv2d(mix, 10, 1, bias=False),
            nn.Flatten(),
        )
