"""Save the attributes and tensors of a module, and restore them after forward passes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from itertools import chain
from typing import Any, cast

import torch
from torch import nn
from torch.nn.parameter import is_lazy

# Attributes that every module has.
_MODULE_ATTRIBUTES = frozenset(vars(nn.Module()))
_CONTAINERS = (dict, OrderedDict, list, set)


def named_tensors(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Pairs of name and tensor for all initialised parameters and buffers; a shared tensor appears under each name."""
    parameters, buffers = (
        module.named_parameters(remove_duplicate=False),
        module.named_buffers(remove_duplicate=False),
    )
    return ((name, tensor) for name, tensor in chain(parameters, buffers) if not is_lazy(tensor))


def same_tensor(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors have the same dtype, shape and values, where NaN equals NaN."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return bool(((a == b) | (a.isnan() & b.isnan())).all())


class ModuleState:
    """A snapshot of the attributes of a module and its submodules, and of the values of their tensors.

    Lists, sets and dictionaries are copied; attributes of other objects that the module holds are not saved.
    """

    def __init__(self, module: nn.Module) -> None:
        self.names = {name for name, _ in named_tensors(module)}
        self._attributes: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self._containers: list[tuple[Any, Any]] = []
        tensors: dict[int, torch.Tensor] = {}
        for child in module.modules():
            attributes = vars(child)
            self._attributes.append((attributes, dict(attributes)))
            for value in attributes.values():
                items: Any = (value,)
                if type(value) in _CONTAINERS:
                    self._containers.append((value, value.copy()))
                    items = list(value.values() if hasattr(value, "values") else value)
                tensors.update((id(item), item) for item in items if _has_numbers(item))
        self._tensors = [
            (tensor, tensor.detach(), tensor.requires_grad, tensor.grad if tensor.is_leaf else None)
            for tensor in tensors.values()
        ]
        # The memory is copied, not each tensor: several tensors may share memory, and an expanded tensor is not writable.
        storages = {storage.data_ptr(): storage for storage in map(torch.Tensor.untyped_storage, tensors.values())}
        self._storages = [(storage, storage.clone()) for storage in storages.values()]  # type: ignore[no-untyped-call]

    def changed_attributes(self) -> list[str]:
        """Names of attributes, such as a call counter, whose type, or whose value if a number or string, has changed."""
        plain = (bool, int, float, str)
        return [
            name
            for attributes, before in self._attributes
            for name, value in attributes.items()
            if name not in _MODULE_ATTRIBUTES
            and (type(value) is not type(before.get(name)) or (type(value) in plain and before[name] != value))
        ]

    def restore(self) -> None:
        """Restore all saved attributes and tensors of the module."""
        for attributes, before in self._attributes:
            attributes.clear()
            attributes.update(before)
        for container, before in self._containers:
            container.clear()
            (container.extend if type(container) is list else container.update)(before)
        self.restore_tensors()

    def restore_tensors(self) -> None:
        """Restore the values, the gradients and ``requires_grad`` of all saved tensors."""
        for storage, before in self._storages:
            storage.copy_(before)
        for tensor, alias, requires_grad, gradient in self._tensors:
            if tensor.data_ptr() != alias.data_ptr() or tensor.shape != alias.shape:
                tensor.data = alias
            if tensor.is_leaf:
                tensor.requires_grad_(requires_grad)
                tensor.grad = gradient


def _has_numbers(value: object) -> bool:
    """Whether a value is a dense tensor with data; tests ``type(value)``, as an object may override ``__class__``."""
    if not issubclass(type(value), torch.Tensor):
        return False
    tensor = cast("torch.Tensor", value)
    return not (is_lazy(tensor) or tensor.is_meta or tensor.is_quantized) and tensor.layout is torch.strided
