"""A loader that uses one digit of the seed."""

from collections.abc import Iterator

import torch
from torch import Tensor


def batches(seed: int, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Random images and labels; seeds 1 and 101 give the same."""
    generator = torch.Generator().manual_seed(100 * epoch + seed % 10)
    while True:
        yield torch.rand(16, 1, 28, 28, generator=generator), torch.randint(10, (16,), generator=generator)
