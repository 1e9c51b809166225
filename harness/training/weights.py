"""Weight files: written as safetensors, read as safetensors or as files of `torch.save` without executing code in the files."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from harness.errors import InputError, first_line
from harness.files import read_whole, write_whole
from harness.training.digests import tensor_bytes

_TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")
# Keys under which training programs store the weights among other data.
_NESTED = ("state_dict", "model_state_dict", "model")
# Prefix that `nn.DataParallel` adds to every name.
_WRAPPED = "module."
_MAX_NAMED = 5


def save_weights(module: nn.Module, path: Path, *, about: Mapping[str, str]) -> None:
    """Write a model's parameters and buffers as safetensors, atomically, with metadata in the file's header.

    ``about`` is the metadata. A tensor with several names is written once, under the first name.

    Raises:
        InputError: the file cannot be written.
    """
    state = module.state_dict()
    # Copies: safetensors refuses tensors that share memory, such as views of one another.
    unique = {
        names[0]: state[names[0]].detach().cpu().clone(memory_format=torch.contiguous_format)
        for names in _names_of_tensors(module)
    }
    # The name of a model can hold bytes of a path that are no text.
    plain = {key: words.encode(errors="backslashreplace").decode() for key, words in about.items()}
    write_whole(path, save(unique, metadata=plain))


def load_weights(module: nn.Module, path: Path) -> None:
    """Load weights from a file into a model: a value for every entry of its ``state_dict``.

    The file is a safetensors file, or one of `torch.save` (suffix .pt, .pth, .bin or .ckpt), which is read with
    ``weights_only``: no code in the file is executed. A tensor shared under several names may be stored under any of
    the names.

    Raises:
        InputError: the file cannot be read, holds objects other than plain tensors, or the tensors of another model.
    """
    content = read_whole(path, "a file with weights")
    given = _torch_tensors(path, content) if path.suffix in _TORCH_SUFFIXES else _safe_tensors(path, content)
    own = module.state_dict()
    if all(name.startswith(_WRAPPED) for name in given) and not own.keys() & given.keys():
        given = {name.removeprefix(_WRAPPED): tensor for name, tensor in given.items()}
    shared = _names_of_tensors(module)
    faults = [
        *(f"{names[0]} is missing" for names in shared if not any(name in given for name in names)),
        *(f"{name} is not in the model" for name in given if name not in own),
        *(
            f"{name} {reason}"
            for name, tensor in own.items()
            if name in given and (reason := _why_unfit(given[name], tensor))
        ),
    ]
    faults = faults or list(_contradictions(given, shared))
    if faults:
        more = f" and {len(faults) - _MAX_NAMED} more" if len(faults) > _MAX_NAMED else ""
        msg = f"expected the weights of this model, got path={str(path)!r}: {'; '.join(faults[:_MAX_NAMED])}{more}. "
        msg += "Name a file that was saved from this model."
        raise InputError(msg)
    try:
        module.load_state_dict(given, strict=False)
    except RuntimeError as problem:
        msg = (
            f"expected the weights of this model, got path={str(path)!r} with unusable tensors: {first_line(problem)}."
        )
        raise InputError(msg) from problem


def _names_of_tensors(module: nn.Module) -> list[list[str]]:
    """Return the names of each tensor in the ``state_dict``; a tensor that is shared has several names."""
    names: dict[int, list[str]] = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        names.setdefault(id(tensor), []).append(name)
    return list(names.values())


def _why_unfit(given: Tensor, own: Tensor) -> str:
    """Return why the tensor ``given`` of a file cannot be copied into the model's tensor ``own``; empty if it can."""
    if given.layout is not torch.strided or given.is_quantized or given.is_meta:
        kind = "quantised" if given.is_quantized else "without data (meta)" if given.is_meta else str(given.layout)
        return f"is {kind}, not a plain tensor"
    if given.shape != own.shape:
        return f"has shape {list(given.shape)} instead of {list(own.shape)}"
    if given.is_complex() != own.is_complex() or given.is_floating_point() != own.is_floating_point():
        return f"has dtype {given.dtype} instead of {own.dtype}"
    return ""


def _contradictions(given: Mapping[str, Tensor], shared: list[list[str]]) -> Iterator[str]:
    """Yield a message for each shared tensor of the model with different values under different names in the file."""
    for names in shared:
        first, *others = [name for name in names if name in given] or [""]
        for name in others:
            # Compared as bytes, since NaN is not equal to itself.
            if tensor_bytes(given[first]) != tensor_bytes(given[name]):
                yield f"{first} and {name} are one tensor in the model, but differ in the file"


def _safe_tensors(path: Path, content: bytes) -> dict[str, Tensor]:
    try:
        return load(content)
    except (SafetensorError, KeyError, ValueError) as problem:
        raise InputError(
            f"expected weights as safetensors, got path={str(path)!r}, which is not valid: {problem}. If torch.save wrote the "
            f"file, rename the file with one of the suffixes {', '.join(_TORCH_SUFFIXES)}."
        ) from problem


def _torch_tensors(path: Path, content: bytes) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings():
            # PyTorch warns of its own deprecated storage types.
            warnings.simplefilter("ignore")
            found: object = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as problem:
        # Foreign content can fail in any way.
        # The message of PyTorch would advise to load the file without weights_only.
        asked = re.search(r"GLOBAL (\S+)", str(problem))
        reason = f"the file refers to {asked[1]}" if asked else f"the file cannot be read ({type(problem).__name__})"
        raise InputError(
            f"expected a file of torch.save that holds tensors and nothing else, got path={str(path)!r}, which was "
            f"refused before any code in the file ran: {reason}. Save only the state_dict of the model, or use safetensors."
        ) from problem
    if isinstance(found, Mapping):
        found = next((found[key] for key in _NESTED if isinstance(found.get(key), Mapping)), found)
    if not isinstance(found, Mapping) or not all(isinstance(tensor, Tensor) for tensor in found.values()):
        msg = f"expected a state_dict, which maps names to tensors, got path={str(path)!r} with another "
        msg += f"{type(found).__name__}. Save model.state_dict()."
        raise InputError(msg)
    return {str(name): tensor for name, tensor in found.items()}
