"""A moment: all that a computation may leave behind in a process, taken down so that it can be compared and put back."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import pickle
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from harness.training import state_digest
from harness.training.randomness import global_random_state, set_global_random_state

TORCH_RANDOM = "torch's random state"
PYTHON_RANDOM = "Python's random state"
NUMPY_RANDOM = "numpy's random state"
RANDOM_STATES = (TORCH_RANDOM, PYTHON_RANDOM, NUMPY_RANDOM)

# What every module has; the rest of its attributes are its class's own.
_USUAL_ATTRIBUTES = frozenset(vars(nn.Module()))


@dataclass(frozen=True, kw_only=True)
class _Kept:
    digest: str
    put_back: Callable[[nn.Module], None]


class Moment:
    """The random states, and everything a module holds, as they are now.

    Each has a name: one of `RANDOM_STATES`, ``parameter conv.weight``, ``buffer norm.running_mean``, or, for what no
    ``state_dict`` would hold, ``attribute block.calls``. Attributes that cannot be copied or compared are left out.

    Args:
        module: the module.
        device: where it runs.
    """

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        self._kept: dict[str, _Kept] = dict(_random_states(device))
        self._left_out: set[str] = set()
        for kind, tensors in (("parameter", module.named_parameters()), ("buffer", module.named_buffers())):
            for name, tensor in tensors:
                self._kept[f"{kind} {name}"] = _kept_tensor(name, tensor)
        for path, part in module.named_modules():
            for name, value in vars(part).items():
                if name in _USUAL_ATTRIBUTES:
                    continue
                place = f"attribute {path}.{name}" if path else f"attribute {name}"
                try:
                    self._kept[place] = _kept_attribute(path, name, value)
                except Exception:  # noqa: BLE001 - a user's own class may refuse both in any way it likes
                    self._left_out.add(place)

    def changed(self, later: Moment) -> tuple[str, ...]:
        """The names of what is not the same at another moment, or not there."""
        names = dict.fromkeys((*self._kept, *later._kept))
        return tuple(name for name in names if self._digest(name) != later._digest(name))

    def put_back(self, module: nn.Module, names: Iterable[str]) -> None:
        """Make what has these names in a module (or in the process) what it was."""
        for name in names:
            if name in self._kept:
                self._kept[name].put_back(module)
            elif name.startswith("attribute ") and name not in self._left_out:
                path, _, leaf = name.removeprefix("attribute ").rpartition(".")
                with contextlib.suppress(AttributeError):
                    delattr(module.get_submodule(path), leaf)

    def _digest(self, name: str) -> str | None:
        return self._kept[name].digest if name in self._kept else None


def _random_states(device: torch.device) -> Iterator[tuple[str, _Kept]]:
    in_torch = global_random_state(device)
    in_python = random.getstate()
    in_numpy = np.random.get_state()  # noqa: NPY002 - the old global generator is the one that others may share
    yield (
        TORCH_RANDOM,
        _Kept(digest=state_digest(in_torch), put_back=lambda _: set_global_random_state(device, in_torch)),
    )
    yield PYTHON_RANDOM, _Kept(digest=_digest(in_python), put_back=lambda _: random.setstate(in_python))
    yield NUMPY_RANDOM, _Kept(digest=_digest(in_numpy), put_back=lambda _: np.random.set_state(in_numpy))  # noqa: NPY002


def _kept_tensor(name: str, tensor: Tensor) -> _Kept:
    value = tensor.detach().clone()

    def put_back(module: nn.Module) -> None:
        path, _, leaf = name.rpartition(".")
        with torch.no_grad():
            getattr(module.get_submodule(path), leaf).copy_(value)

    return _Kept(digest=state_digest({"": value}), put_back=put_back)


def _kept_attribute(path: str, name: str, value: object) -> _Kept:
    digest, value = _digest(value), copy.deepcopy(value)

    def put_back(module: nn.Module) -> None:
        with contextlib.suppress(AttributeError):
            setattr(module.get_submodule(path), name, copy.deepcopy(value))

    return _Kept(digest=digest, put_back=put_back)


def _digest(value: object) -> str:
    """A digest of a value; equal values of plain types, tensors and generators among them have equal ones.

    Raises:
        Exception: whatever pickling the value raises.
    """
    return hashlib.sha256(pickle.dumps(_plain(value))).hexdigest()


def _plain(value: Any) -> Any:  # noqa: ANN401 - any value at all
    """The same without what pickles differently each time."""
    match value:
        case Tensor():
            return state_digest({"": value})
        case torch.Generator():
            return state_digest({"": value.get_state()})
        case nn.Module():
            raise TypeError("a module is no attribute")
        case dict():
            return [(_plain(key), _plain(item)) for key, item in value.items()]
        case list() | tuple():
            return [_plain(item) for item in value]
        case set() | frozenset():
            return sorted(map(repr, value))
        case _:
            return value
