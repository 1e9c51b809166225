"""Weights as files: written as safetensors, read as safetensors or as what `torch.save` writes, never as code."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from harness.errors import InputError
from harness.files import write_whole

_TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")
# Where training programs put the weights beside other things.
_NESTED = ("state_dict", "model_state_dict", "model")
# What a wrapper for several devices puts before every name.
_WRAPPED = "module."
_MOST_NAMED = 5


def save_weights(module: nn.Module, path: Path, *, about: Mapping[str, str]) -> None:
    """Write a network's parameters and buffers as safetensors, whole or not at all.

    Args:
        module: the network, on any device.
        path: where to.
        about: what to say about them in the file's header.

    Raises:
        InputError: it cannot be written.
    """
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
    write_whole(path, save(state, metadata=dict(about)))


def load_weights(module: nn.Module, path: Path) -> None:
    """Put weights from a file into a network.

    Args:
        module: the network; every parameter and buffer of its ``state_dict`` gets its value from the file.
        path: a safetensors file, or one of `torch.save` (by its suffix: .pt, .pth, .bin, .ckpt), which is read as plain
            tensors: nothing in it is run.

    Raises:
        InputError: the file cannot be read, holds other things than tensors, or tensors of another network.
    """
    try:
        content = path.read_bytes()
    except OSError as problem:
        msg = f"expected a file with weights, got path={str(path)!r}, which cannot be read: {problem.strerror}."
        raise InputError(msg) from problem
    given = _torch_tensors(path) if path.suffix in _TORCH_SUFFIXES else _safe_tensors(path, content)
    if given and all(name.startswith(_WRAPPED) for name in given):
        given = {name.removeprefix(_WRAPPED): tensor for name, tensor in given.items()}
    own = module.state_dict()
    faults = [
        *(f"{name} is missing" for name in own if name not in given),
        *(f"{name} is not one of the network's" for name in given if name not in own),
        *(
            f"{name} has shape {list(given[name].shape)} instead of {list(tensor.shape)}"
            for name, tensor in own.items()
            if name in given and given[name].shape != tensor.shape
        ),
    ]
    if faults:
        more = f" and {len(faults) - _MOST_NAMED} more" if len(faults) > _MOST_NAMED else ""
        msg = f"expected the weights of this network, got path={str(path)!r}: {'; '.join(faults[:_MOST_NAMED])}{more}."
        raise InputError(msg)
    module.load_state_dict(given)


def _safe_tensors(path: Path, content: bytes) -> dict[str, Tensor]:
    try:
        return load(content)
    except SafetensorError as problem:
        msg = (
            f"expected weights as safetensors, got path={str(path)!r}, which is not: {problem}. Files of torch.save are known by "
            f"their suffix: {', '.join(_TORCH_SUFFIXES)}."
        )
        raise InputError(msg) from problem


def _torch_tensors(path: Path) -> dict[str, Tensor]:
    try:
        found: object = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, AttributeError) as problem:
        # Torch's own message would advise to load it with everything that is in it.
        asked = re.search(r"GLOBAL (\S+)", str(problem))
        reason = f"it asks for {asked[1]}" if asked else f"it cannot be read ({type(problem).__name__})"
        msg = (
            f"expected a file of torch.save that holds tensors and nothing else, got path={str(path)!r}, which is refused, and "
            f"nothing in it was run: {reason}. Save the state_dict alone, or as safetensors."
        )
        raise InputError(msg) from problem
    if isinstance(found, Mapping):
        found = next((found[key] for key in _NESTED if isinstance(found.get(key), Mapping)), found)
    if not isinstance(found, Mapping) or not all(isinstance(tensor, Tensor) for tensor in found.values()):
        msg = f"expected a state_dict, names with tensors, got path={str(path)!r} with a {type(found).__name__} of other things."
        raise InputError(msg)
    return {str(name): tensor for name, tensor in found.items()}
