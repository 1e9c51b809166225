"""Independent random streams, which are sequences of random numbers, from one declared seed.

Each use of randomness (order of the images, augmentation, dropout) has a stream of its own, whose seed depends on the
declared seed and on the name of the stream. Without one of the uses, such as dropout, the random numbers of the others
stay the same. Evaluation consumes no random numbers.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import torch
from torch import nn

from harness.errors import InputError

Module = TypeVar("Module", bound=nn.Module)

_RANDOMNESS = threading.RLock()
_OWN_GENERATOR: ContextVar[torch.Generator | None] = ContextVar("own_generator", default=None)


def derived_seed(seed: int, stream: str) -> int:
    """Return the seed of the random stream called ``stream``: the first 63 bits of the SHA-256 of the text ``seed/stream``."""
    digest = hashlib.sha256(f"{seed}/{stream}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def initialise(build: Callable[[], Module], *, seed: int) -> Module:
    """Build a module as ``torch.manual_seed(seed); build()`` does, but restore the global random state of PyTorch.

    Raises:
        InputError: the seed is out of range.
    """
    _check_seed(seed)
    with preserved_randomness(torch.device("cpu")):
        torch.default_generator.manual_seed(seed)
        return build()


@contextmanager
def preserved_randomness(device: torch.device) -> Iterator[None]:
    """At the end of the block, restore the global random states of PyTorch for the CPU and for ``device``.

    Raises:
        InputError: another thread of this process is in such a block; each would draw from the other's random numbers.
    """
    if not _RANDOMNESS.acquire(blocking=False):
        raise InputError(
            "expected one training or evaluation at a time in a process, got a second one in another thread. All threads draw "
            "from PyTorch's global random numbers: use processes, such as those of train_seeds."
        )
    try:
        before = global_random_state(device)
        try:
            yield
        finally:
            set_global_random_state(device, before)
    finally:
        _RANDOMNESS.release()


def require_plain_arithmetic() -> None:
    """Raise an `InputError` if PyTorch is set to compute with other numbers than a run record says."""
    try:
        device = torch.get_default_device().type
    except RuntimeError:  # the device that was set is missing here
        device = ""
    changed = {
        "torch.autocast": any(torch.is_autocast_enabled(kind) for kind in ("cpu", "cuda")),
        "torch.set_default_dtype": torch.get_default_dtype() is not torch.float32,
        "torch.set_default_device": device != "cpu",
    }
    if names := [name for name, is_changed in changed.items() if is_changed]:
        raise InputError(
            f"expected PyTorch's defaults, with which results can be repeated, got defaults changed by {' and '.join(names)}. "
            "Reset them, or call the function outside of the block; for lower precision, choose the engine bf16."
        )


class RandomStreams:
    """The random streams of one run: order of the images, augmentation, and dropout (all draws of the model itself).

    Order and augmentation are drawn on the CPU, so that they are the same on every device. Dropout draws from the
    device's global generator, which this class seeds, since only an engine can make a module draw from another
    generator. For such an engine, ``own_dropout`` creates the generator ``dropout`` for this run and leaves the global
    generator untouched.

    Raises:
        InputError: the seed is out of range.
    """

    def __init__(self, seed: int, device: torch.device, *, own_dropout: bool = False) -> None:
        _check_seed(seed)
        self.seed = seed
        self._device = device
        self.order = torch.Generator().manual_seed(derived_seed(seed, "order"))
        self.augmentation = torch.Generator().manual_seed(derived_seed(seed, "augmentation"))
        self.dropout: torch.Generator | None = None
        if own_dropout:
            self.dropout = torch.Generator(device).manual_seed(derived_seed(seed, "dropout"))
        else:
            torch.manual_seed(derived_seed(seed, "dropout"))

    def state(self) -> dict[str, Any]:
        """Return the states of all streams by name, as tensors."""
        state: dict[str, Any] = {"order": self.order.get_state(), "augmentation": self.augmentation.get_state()}
        if self.dropout is not None:
            return {**state, "dropout": self.dropout.get_state()}
        return {**state, "global": global_random_state(self._device)}

    def restore(self, state: dict[str, Any]) -> None:
        """Set all streams to states that `state` returned."""
        self.order.set_state(state["order"])
        self.augmentation.set_state(state["augmentation"])
        if self.dropout is not None:
            self.dropout.set_state(state["dropout"])
        else:
            set_global_random_state(self._device, state["global"])

    @contextmanager
    def before_step(self) -> Iterator[None]:
        """Within the block, make `network_random_state` use this run's own dropout generator, if there is one.

        The digests of a step are computed in the block.
        """
        token = _OWN_GENERATOR.set(self.dropout)
        try:
            yield
        finally:
            _OWN_GENERATOR.reset(token)


def _check_seed(seed: int) -> None:
    if not 0 <= seed < 2**63:
        raise InputError(f"expected a seed from 0 to 2**63 - 1, got seed={seed}.")


def network_random_state(device: torch.device) -> torch.Tensor:
    """Return the state of the generator that the model of the current run draws from, as bytes on the CPU."""
    own = _OWN_GENERATOR.get()
    return device_random_state(device) if own is None else own.get_state()


def device_random_state(device: torch.device) -> torch.Tensor:
    """Return the state of a device's global generator, as bytes on the CPU."""
    if device.type == "cuda":
        return torch.cuda.get_rng_state(device)
    if device.type == "mps":
        return torch.mps.get_rng_state()
    return torch.get_rng_state()


def global_random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """Return the states of the global generators of the CPU and of a device, by device type."""
    return {
        kind: device_random_state(device if kind == device.type else torch.device(kind))
        for kind in {"cpu", device.type}
    }


def set_global_random_state(device: torch.device, state: dict[str, torch.Tensor]) -> None:
    """Set the global generators to states that `global_random_state` returned."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)
    if device.type == "mps":
        torch.mps.set_rng_state(state["mps"])
