"""Explain to a model's author why `torch.export` fails: the operation, its location, and a remedy."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

import torch
from torch import nn
from torch.export import Dim
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from harness.errors import first_line
from harness.graph.places import place_in_stack, place_of, place_of_error

_VALUES = (
    "the operations depend on the values of the images{place} (by an if, a loop, a size, or a conversion to a Python number): "
    "compute with tensors, such as by torch.where"
)
READS_NUMBER = (
    "forward converts a tensor to a Python number{place}, such as by .item() or float(), and this number has no value while "
    "the graph is captured: compute with tensors, and print outside forward"
)
_OUTSIDE = (
    "forward converts a tensor to an object outside PyTorch{place}, such as by .numpy(), and a graph cannot contain "
    "computations outside PyTorch: use operations of torch"
)
_HIDDEN_WRITE = (
    "forward changes or stores a tensor in a way that autograd does not record{place}, such as by .data: write "
    "x = x.clamp(min=0) in place of x.data.clamp_(min=0), and keep state in buffers"
)
# Explanations of an error by words in torch's message; the first entry with a word that occurs is used.
_KNOWN = (
    (("data-dependent", "dynamic shape operator", "unbacked"), _VALUES),
    (("SymFloat", "SymInt", "SymBool", "aten._local_scalar_dense", "aten::item"), READS_NUMBER),
    ((".numpy()", "numpy", "data_ptr", "tolist"), _OUTSIDE),
    (("fake tensor in the exported program", "lifted_tensor", "FakeTensor"), _HIDDEN_WRITE),
)
# Two other batch sizes than the example's: the first is no multiple of the example's, the second is.
_OTHER_BATCHES = (5, 8)


def why_not_exported(error: Exception, module: nn.Module, example: torch.Tensor) -> str:
    """Explain why `torch.export` fails for a module whose forward runs without error; the text ends a sentence.

    Args:
        error: the exception that `torch.export` raised.
        module: the module, in the mode in which the export failed.
        example: the batch of images that was given to `torch.export`.
    """
    text, place = str(error), place_of_error(error)
    if "data-dependent" not in text and ("Constraints violated" in text or "specialized" in text):
        return _why_batch_matters(module, example)
    for words, sentence in _KNOWN:
        if any(word in text for word in words):
            return sentence.format(place=place or _place_of_data_access(module, example))
    return f"torch.export fails{place}: {type(error).__name__}: {first_line(error)}"


def _why_batch_matters(module: nn.Module, example: torch.Tensor) -> str:
    watch = _BatchWatch()
    with watch, contextlib.suppress(Exception):
        torch.export.export(module, (example.clone(),), dynamic_shapes=({0: Dim.AUTO},), strict=False)
    place = f"at {watch.found}, " if watch.found else ""
    failures = {size: _failure(module, example, size) for size in _OTHER_BATCHES}
    if all(failures.values()):
        return (
            f"{place}forward accepts only batches of {len(example)} images, the batch size used for capture: write -1 or "
            f"x.size(0) for the batch size (with {_OTHER_BATCHES[0]} images: {failures[_OTHER_BATCHES[0]]})"
        )
    if failures[_OTHER_BATCHES[0]]:
        return (
            f"{place}forward combines several images, so that only certain batch sizes work, but a graph must work for every "
            f"batch size (with {_OTHER_BATCHES[0]} images: {failures[_OTHER_BATCHES[0]]}): keep each image in a row of its own; "
            "batch norm over parts of a batch cannot be captured"
        )
    return (
        f"{place}the operations depend on the number of images, but a graph must work for every batch size: run the same "
        "operations for every batch, without a loop over the images, a division of the batch, or an if on x.size(0)"
    )


def _failure(module: nn.Module, example: torch.Tensor, size: int) -> str:
    try:
        with torch.no_grad():
            module(example.repeat(2, *[1] * (example.ndim - 1))[:size])
    except Exception as error:  # noqa: BLE001 - a user's own code may raise anything
        return f"{type(error).__name__}: {first_line(error)}"
    return ""


def _place_of_data_access(module: nn.Module, example: torch.Tensor) -> str:
    """Run forward and return the location of the first access to ``Tensor.data``, such as `` in line 3 of net.py``.

    The location is empty if user code makes no such access.
    """
    places: list[str] = []

    class Watch(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401 - as torch declares it
            del types
            if func == torch.Tensor.data.__get__:  # type: ignore[attr-defined]
                places.append(place_of(sys._getframe(1)))  # noqa: SLF001 - the caller's line
            return func(*args, **(kwargs or {}))

    with Watch(), contextlib.suppress(Exception):
        module(example.clone())
    return next(filter(None, places), "")


class _BatchWatch(TorchFunctionMode):
    """Records the name and location of the first operation for which `torch.export` adds a guard on the batch size."""

    def __init__(self) -> None:
        super().__init__()
        self.operation = self.place = ""
        self._environment: Any = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401 - as torch declares it
        """Call ``func``; if the call adds the first guard on the batch size, record the function's name and location."""
        del types
        before = self._guards(args)
        try:
            return func(*args, **(kwargs or {}))
        finally:
            if not before and self._guards(args) and not self.operation:
                self.operation, self.place = getattr(func, "__name__", ""), place_of(sys._getframe(1))  # noqa: SLF001 - the caller's line

    @property
    def found(self) -> str:
        """The recorded operation and its location, such as ``view in line 3 of net.py``; empty if unknown."""
        if not self.operation and self._environment is not None and self._environment.guards:
            # Python code added the guard without calling an operation, as in `if x.size(0) > 2`.
            location = str(self._environment.guards[0].sloc.framework_loc or "")
            return place_in_stack(location.replace("file ", 'File "').replace(", line", '", line')).removeprefix(" in ")
        return self.operation and f"{self.operation}{self.place}"

    def _guards(self, args: Any) -> int:  # noqa: ANN401 - arguments of any function
        if self._environment is None:
            tensors = (leaf for leaf in tree_leaves(args) if isinstance(leaf, torch.Tensor))
            sizes = (size for tensor in tensors for size in tensor.shape if isinstance(size, torch.SymInt))
            self._environment = next((size.node.shape_env for size in sizes), None)  # type: ignore[attr-defined]  # torch types sizes as int
        return len(self._environment.guards) if self._environment is not None else 0
