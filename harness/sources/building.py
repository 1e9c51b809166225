"""Instantiating a user's model class with a seed and arguments such as ``--args "dropout_prob=0.1, width=16"``."""

from __future__ import annotations

import ast
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

import mnist_models
from harness.errors import ModelSourceError, first_line, one_a_line
from harness.sources.importing import ModelClass, import_models
from harness.sources.source import ModelSource

# The shape of an image that a training gives the model.
_IMAGE_SHAPE = (1, 28, 28)
_MAX_CHARACTERS = 2_000


def parse_arguments(text: str) -> dict[str, Any]:
    """Parse constructor arguments such as ``dropout_prob=0.1, width=16``, without running any code.

    Values are literals: numbers, quoted strings, True, False, None, and tuples, lists, dictionaries and sets of these.

    Raises:
        ModelSourceError: the text is not a list of ``name=literal`` arguments.
    """
    try:
        if len(text) > _MAX_CHARACTERS:
            raise ValueError(f"the text is longer than {_MAX_CHARACTERS:,} characters")  # noqa: TRY301 - one message for all
        return _literals(text)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        reason = str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
        raise ModelSourceError(
            f'expected constructor arguments as name=literal, such as "dropout_prob=0.1, width=16", got args={text[:200]!r}: '
            f"{reason}. Literals are numbers, quoted strings, True, False, None, and tuples and lists of such values"
        ) from error


def _literals(text: str) -> dict[str, Any]:
    call = ast.parse(f"_({text}\n)", mode="eval").body
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
        raise ValueError("a closing bracket has no opening bracket")  # noqa: TRY004 - about the text, not a type
    if call.args:
        raise ValueError(f"{ast.unparse(call.args[0])} is not given by name")
    found: dict[str, Any] = {}
    for keyword in call.keywords:
        if keyword.arg is None:
            raise ValueError(f"**{ast.unparse(keyword.value)} is not given by name")
        if keyword.arg in found:
            raise ValueError(f"{keyword.arg} is given twice")
        try:
            found[keyword.arg] = ast.literal_eval(keyword.value)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{keyword.arg}={ast.unparse(keyword.value)} is not a literal") from error
    return found


def build_model(cls: ModelClass, name: str, arguments: str, seed: int) -> nn.Module:
    """Instantiate a class after ``torch.manual_seed(seed)``; ``name`` stands for the class in error messages.

    Raises:
        ModelSourceError: the arguments do not match the constructor, or the constructor raises an error.
    """
    given = parse_arguments(arguments)
    parameters = inspect.signature(cls).parameters.values()
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    named = [parameter.name for parameter in parameters if parameter.kind not in variadic]
    needed = [p.name for p in parameters if p.name in named and p.default is p.empty and p.name not in given]
    unknown = [key for key in given if key not in named]
    if unknown and not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
        raise ModelSourceError(
            f"{name}: the constructor of {cls.__name__} takes no argument {', '.join(unknown)}: "
            f"expected only {', '.join(named) or 'no arguments'}. Correct --args"
        )
    if needed:
        example = ", ".join(f"{parameter}=..." for parameter in needed)
        raise ModelSourceError(
            f"{name}: the constructor of {cls.__name__} needs {', '.join(needed)}: expected a class that can be built without "
            f'arguments. Give each argument a default value, or pass values: --args "{example}"'
        )
    restore_defaults()
    torch.manual_seed(seed)
    try:
        return cls(**given)
    except (Exception, SystemExit) as error:
        call = f"{cls.__name__}({', '.join(f'{key}={value!r}' for key, value in given.items())})"
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise ModelSourceError(f"{name}: building {call} failed: {reason}") from error


def restore_defaults() -> str:
    """Reset torch's default dtype to float32 and its default device to the CPU, in case a user's file has set them.

    Returns:
        A sentence on the defaults that were reset; empty if no default was.
    """
    dtype = str(torch.get_default_dtype()).removeprefix("torch.")
    try:
        device = torch.get_default_device().type
    except RuntimeError:
        device = "a device that is missing here"
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)
    if (dtype, device) == ("float32", "cpu"):
        return ""
    return f"torch's default for new tensors, set to {dtype} on {device}, is reset to float32 on cpu"


def build_shipped(name: str, seed: int) -> nn.Module:
    """Build a model of the ``mnist_models`` package after ``torch.manual_seed(seed)``."""
    torch.manual_seed(seed)
    return mnist_models.create_model(name)


def shipped_recipe(name: str) -> Mapping[str, Any]:
    """Return the training recipe of a shipped model as a mapping that `harness.training.Recipe.from_mapping` reads.

    Raises:
        ModelSourceError: there is no shipped model of this name.
    """
    if name not in mnist_models.list_models():
        raise ModelSourceError(
            f"expected the name of a shipped model, whose recipe is used, got {name!r}. See `harness list`"
        )
    return mnist_models.model_card(name).recipe


def module_builder(source: ModelSource, arguments: str) -> Callable[[int], nn.Module]:
    """Import the model class of ``source`` and return a function that builds instances of the class.

    The function takes a seed, calls ``torch.manual_seed`` with the seed and returns a new module in train mode. ``arguments``
    are the constructor arguments as text, such as ``dropout_prob=0.1, width=16``, see `parse_arguments`. `module_source` in
    `harness.sources.source` returns a suitable source.

    Raises:
        ModelSourceError: the class cannot be imported or is ambiguous. The function raises a `ModelSourceError` if the class
            cannot be instantiated.
    """
    if source.shipped is not None:
        return functools.partial(build_shipped, source.shipped)
    imported = import_models(source)
    if len(imported.classes) > 1:
        listed = one_a_line(imported.classes.values())
        raise ModelSourceError(f"{source.text} holds several models. Name one of these:{listed}")
    ((cls, name),) = imported.classes.items()

    def build(seed: int) -> nn.Module:
        module = build_model(cls, name, arguments, seed)
        if any(is_lazy(tensor) for tensor in (*module.parameters(), *module.buffers())):
            module.eval()
            with torch.no_grad():
                module(torch.zeros((2, *_IMAGE_SHAPE)))
        # A module's own train() may return anything.
        module.train()
        return module

    return build
