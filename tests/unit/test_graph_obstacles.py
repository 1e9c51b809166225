"""What `torch.export` cannot follow is said in words that an author can act on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.errors import CaptureError
from harness.graph import capture

Step = Callable[["Net", Tensor], Tensor]


class Net(nn.Module):
    """A convolution, a step on its maps, and three scores."""

    def __init__(self, step: Step) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.norm = nn.BatchNorm2d(4)
        self.fc = nn.Linear(2, 3)
        self.step = step
        self.note = ""

    def forward(self, images: Tensor) -> Tensor:
        """Three numbers an image."""
        scores: Tensor = self.fc(self.step(self, self.conv(images)).mean((2, 3)))
        return scores


def sub_batches(net: Net, maps: Tensor) -> Tensor:
    """Batch norm over halves of the batch."""
    batch, channels, height, width = maps.shape
    normed: Tensor = net.norm(maps.view(-1, 2 * channels, height, width))
    return normed.view(batch, channels, height, width)


def in_parts(_: Net, maps: Tensor) -> Tensor:
    """Each half of the batch by itself."""
    return torch.cat([part - part.mean() for part in maps.chunk(2, 0)])


def one_by_one(_: Net, maps: Tensor) -> Tensor:
    """A loop over the images."""
    return torch.stack([one - one.mean() for one in maps])


def for_small_batches(_: Net, maps: Tensor) -> Tensor:
    """A branch on the number of images."""
    return maps if maps.size(0) > 2 else 2 * maps


def noting(net: Net, maps: Tensor) -> Tensor:
    """A number in a text."""
    net.note = f"{maps.mean().item():.3f}"
    return maps


def by_numpy(_: Net, maps: Tensor) -> Tensor:
    """Another library's operation."""
    return torch.from_numpy(maps.detach().numpy() * 2)


def by_data(_: Net, maps: Tensor) -> Tensor:
    """A write that autograd does not see."""
    maps.data.clamp_(min=0)
    return maps


def cast(_: Net, maps: Tensor) -> Tensor:
    """A block of other precision."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        summed = functional.conv2d(maps, torch.ones(2, 2, 1, 1))
    return summed.float()


OBSTACLES: dict[str, tuple[Step, tuple[str, ...]]] = {
    "batch norm over sub-batches": (
        sub_batches,
        ("at view in line", "forward combines several images", "batch norm over parts of a batch cannot be captured"),
    ),
    "a divided batch": (in_parts, ("at chunk in line", "the operations depend on the number of images")),
    "a loop over the images": (one_by_one, ("in line", "without a loop over the images")),
    "a branch on the batch size": (for_small_batches, ("at line", "an if on x.size(0)")),
    "a fixed batch": (
        lambda _, maps: maps.view(4, 2, 3, 3),
        ("at view in line", "forward accepts only batches of 4 images", "write -1 or x.size(0)"),
    ),
    "a number in a text": (
        noting,
        ("forward converts a tensor to a Python number in line", "print outside forward"),
    ),
    "a number as a factor": (
        lambda _, maps: maps * maps.max().item(),
        ("forward converts a tensor to a Python number in line", ".item()"),
    ),
    "a list of numbers": (lambda _, maps: maps - maps.mean((0, 2, 3)).tolist()[0], ("to a Python number in line",)),
    "a conversion": (lambda _, maps: maps / float(maps.max()), ("depend on the values of the images in line",)),
    "numpy": (by_numpy, ("forward converts a tensor to an object outside PyTorch in line", "use operations of torch")),
    "data": (by_data, ("in a way that autograd does not record in line", "such as by .data")),
    "autocast": (cast, ("forward contains an autocast block in line", "--engine bf16")),
    "an operation that is not allowed": (
        lambda _, maps: maps + torch.linalg.svdvals(maps).mean(),
        ("operation 'aten.linalg_svdvals.default' in line", "not on the allow-list"),
    ),
}


@pytest.mark.parametrize("name", OBSTACLES)
def test_an_obstacle_is_named_with_its_place_and_a_remedy(name: str) -> None:
    """The operation, the line of the file and what to write instead, and none of torch's advice for its own developers."""
    step, words = OBSTACLES[name]
    with pytest.raises(CaptureError) as refused:
        capture(Net(step), (1, 5, 5), name="net", twice=False)
    said = str(refused.value)

    assert [] == [word for word in words if word not in said], said
    assert "test_graph_obstacles.py" in said
    assert [] == [word for word in ("TORCH_LOGS", "Constraints violated", "SymFloat", "github") if word in said], said
