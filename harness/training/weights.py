"""Weight files: written as safetensors; read as safetensors or as files of `torch.save`, without executing any code in them."""

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
# Keys under which training programs store the weights among other data.
_NESTED = ("state_dict", "model_state_dict", "model")
# Prefix that `nn.DataParallel` adds to every name.
_WRAPPED = "module."
_MAX_NAMED = 5


def save_weights(module: nn.Module, path: Path, *, about: Mapping[str, str]) -> None:
    """Write a model's parameters and buffers as safetensors, atomically.

    Args:
        module: the model, on any device.
        path: the file.
        about: metadata for the file's header.

    Raises:
        InputError: the file cannot be written.
    """
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
    write_whole(path, save(state, metadata=dict(about)))


def load_weights(module: nn.Module, path: Path) -> None:
    """Load weights from a file into a model.

    Args:
        module: the model; every entry of its ``state_dict`` gets its value from the file.
        path: a safetensors file, or a file of `torch.save` (suffix .pt, .pth, .bin or .ckpt), which is read with
            ``weights_only``: no code in it is executed.

    Raises:
        InputError: the file cannot be read, holds objects other than tensors, or the tensors of another model.
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
        *(f"{name} is not in the model" for name in given if name not in own),
        *(
            f"{name} has shape {list(given[name].shape)} instead of {list(tensor.shape)}"
            for name, tensor in own.items()
            if name in given and given[name].shape != tensor.shape
        ),
    ]
    if faults:
        more = f" and {len(faults) - _MAX_NAMED} more" if len(faults) > _MAX_NAMED else ""
        msg = f"expected the weights of this model, got path={str(path)!r}: {'; '.join(faults[:_MAX_NAMED])}{more}."
        raise InputError(msg)
    module.load_state_dict(given)


def _safe_tensors(path: Path, content: bytes) -> dict[str, Tensor]:
    try:
        return load(content)
    except SafetensorError as problem:
        msg = (
            f"expected weights as safetensors, got path={str(path)!r}, which is not valid: {problem}. Files of torch.save are "
            f"recognised by their suffix: {', '.join(_TORCH_SUFFIXES)}."
        )
        raise InputError(msg) from problem


def _torch_tensors(path: Path) -> dict[str, Tensor]:
    try:
        found: object = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, AttributeError) as problem:
        # The message of PyTorch would advise to load the file without weights_only.
        asked = re.search(r"GLOBAL (\S+)", str(problem))
        reason = f"it asks for {asked[1]}" if asked else f"it cannot be read ({type(problem).__name__})"
        msg = (
            f"expected a file of torch.save that holds tensors and nothing else, got path={str(path)!r}, which was "
            f"refused before any code in it ran: {reason}. Save only the state_dict, or use safetensors."
        )
        raise InputError(msg) from problem
    if isinstance(found, Mapping):
        found = next((found[key] for key in _NESTED if isinstance(found.get(key), Mapping)), found)
    if not isinstance(found, Mapping) or not all(isinstance(tensor, Tensor) for tensor in found.values()):
        msg = f"expected a state_dict (names and tensors), got path={str(path)!r} with a {type(found).__name__} of other objects."
        msg += " Save model.state_dict()."
        raise InputError(msg)
    return {str(name): tensor for name, tensor in found.items()}
