"""Snapshots of all state that a computation may change in a process, to compare and to restore the state."""

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

# Attributes that every module has; the others belong to the module's own class.
_MODULE_ATTRIBUTES = frozenset(vars(nn.Module()))


@dataclass(frozen=True, kw_only=True)
class _Item:
    """One named piece of state: its digest, and a function that restores the state in a module or in the process."""

    digest: str
    restore: Callable[[nn.Module], None]


class StateSnapshot:
    """A copy of the random states of the process and of everything that a module holds, at one moment.

    Each item has a name: one of `RANDOM_STATES`, ``parameter conv.weight``, ``buffer norm.running_mean``, or, for what
    no ``state_dict`` contains, ``attribute block.calls``. Attributes that cannot be copied or compared are left out.
    """

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        self._items: dict[str, _Item] = dict(_random_states(device))
        self._left_out: set[str] = set()
        for kind, tensors in (("parameter", module.named_parameters()), ("buffer", module.named_buffers())):
            for name, tensor in tensors:
                self._items[f"{kind} {name}"] = _tensor_item(name, tensor)
        for path, part in module.named_modules():
            for name, value in vars(part).items():
                if name in _MODULE_ATTRIBUTES:
                    continue
                title = f"attribute {path}.{name}" if path else f"attribute {name}"
                try:
                    self._items[title] = _attribute_item(path, name, value)
                except Exception:  # noqa: BLE001 - a user's own class may fail in any way when copied or pickled
                    self._left_out.add(title)

    def changed(self, later: StateSnapshot) -> tuple[str, ...]:
        """Return the names of the items that differ in another snapshot, or that only one of the two snapshots has."""
        before = {name: item.digest for name, item in self._items.items()}
        after = {name: item.digest for name, item in later._items.items()}
        return tuple(name for name in before | after if before.get(name) != after.get(name))

    def restore(self, module: nn.Module, names: Iterable[str]) -> None:
        """Restore the items with these names: random states in the process, all others in the module.

        A named attribute that is not in the snapshot is deleted from the module.
        """
        for name in names:
            if name in self._items:
                self._items[name].restore(module)
            elif name.startswith("attribute ") and name not in self._left_out:
                path, _, leaf = name.removeprefix("attribute ").rpartition(".")
                with contextlib.suppress(AttributeError):
                    delattr(module.get_submodule(path), leaf)


def _random_states(device: torch.device) -> Iterator[tuple[str, _Item]]:
    in_torch = global_random_state(device)
    in_python = random.getstate()
    in_numpy = np.random.get_state()  # noqa: NPY002 - the legacy global generator is the one that others may share
    in_digest = state_digest(in_torch)
    yield TORCH_RANDOM, _Item(digest=in_digest, restore=lambda _: set_global_random_state(device, in_torch))
    yield PYTHON_RANDOM, _Item(digest=_digest(in_python), restore=lambda _: random.setstate(in_python))
    yield NUMPY_RANDOM, _Item(digest=_digest(in_numpy), restore=lambda _: np.random.set_state(in_numpy))  # noqa: NPY002


def _tensor_item(name: str, tensor: Tensor) -> _Item:
    value = tensor.detach().clone()

    def restore(module: nn.Module) -> None:
        path, _, leaf = name.rpartition(".")
        with torch.no_grad():
            getattr(module.get_submodule(path), leaf).copy_(value)

    return _Item(digest=state_digest({"": value}), restore=restore)


def _attribute_item(path: str, name: str, value: object) -> _Item:
    digest, value = _digest(value), copy.deepcopy(value)

    def restore(module: nn.Module) -> None:
        with contextlib.suppress(AttributeError):
            setattr(module.get_submodule(path), name, copy.deepcopy(value))

    return _Item(digest=digest, restore=restore)


def _digest(value: object) -> str:
    """Return a digest that is equal for equal values of plain types, tensors and generators.

    Pickling the value may raise any exception.
    """
    return hashlib.sha256(pickle.dumps(_plain(value))).hexdigest()


def _plain(value: Any) -> Any:  # noqa: ANN401 - any value at all
    """Return a value with those parts replaced whose pickled bytes may differ between equal values, such as tensors."""
    match value:
        case Tensor():
            return state_digest({"": value})
        case torch.Generator():
            return state_digest({"": value.get_state()})
        case nn.Module():
            raise TypeError("a module is not a plain attribute")
        case dict():
            return [(_plain(key), _plain(item)) for key, item in value.items()]
        case list() | tuple():
            return [_plain(item) for item in value]
        case set() | frozenset():
            return sorted(map(repr, value))
        case _:
            return value
