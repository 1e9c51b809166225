"""Building a module of a user's class: with which arguments, under which seed. Called in worker processes only."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import torch
from torch import nn
from torch.nn.parameter import is_lazy

import mnist_models
from harness.errors import ModelSourceError
from harness.processes.protocol import first_line
from harness.sources.arguments import parse_arguments
from harness.sources.importing import ModelClass, import_models
from harness.sources.source import ModelSource

# The shape of an image that a training gives the model.
_IMAGE_SHAPE = (1, 28, 28)


def build_model(cls: ModelClass, name: str, arguments: str, seed: int) -> nn.Module:
    """Build a module, its weights drawn under ``torch.manual_seed(seed)``.

    Args:
        cls: its class.
        name: name of the class in messages.
        arguments: see `harness.sources.arguments.parse_arguments`.
        seed: seed of the weights.

    Raises:
        ModelSourceError: the arguments do not fit, or the constructor raises an error.
    """
    given = parse_arguments(arguments)
    parameters = inspect.signature(cls).parameters.values()
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    named = [parameter.name for parameter in parameters if parameter.kind not in variadic]
    needed = [p.name for p in parameters if p.name in named and p.default is p.empty and p.name not in given]
    unknown = [key for key in given if key not in named]
    if unknown and not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
        msg = (
            f"{name}: the constructor of {cls.__name__} takes no argument {', '.join(unknown)}: "
            f"expected {', '.join(named) or 'none'}. Correct --args"
        )
        raise ModelSourceError(msg)
    if needed:
        example = ", ".join(f"{parameter}=..." for parameter in needed)
        msg = (
            f"{name}: the constructor of {cls.__name__} needs {', '.join(needed)}: expected a class that can be built without "
            f'arguments. Give each a default value, or pass values for them: --args "{example}"'
        )
        raise ModelSourceError(msg)
    torch.manual_seed(seed)
    try:
        return cls(**given)
    except (Exception, SystemExit) as error:
        listed = ", ".join(f"{key}={value!r}" for key, value in given.items())
        msg = f"{name}: building {cls.__name__}({listed}) failed: {type(error).__name__}: {first_line(error)}"
        raise ModelSourceError(msg) from error


def module_builder(source: ModelSource, arguments: str) -> Callable[[int], nn.Module]:
    """Import the class that a source of `harness.sources.source.module_source` names.

    Returns:
        A function that builds the module in train mode, under ``torch.manual_seed`` of the seed that it is called with.

    Raises:
        ModelSourceError: the class cannot be imported, or more than one can be meant. From the function: it cannot be built.
    """
    if source.shipped is not None:
        shipped = source.shipped

        def build_shipped(seed: int) -> nn.Module:
            torch.manual_seed(seed)
            return mnist_models.create_model(shipped)

        return build_shipped
    imported = import_models(source)
    if len(imported.classes) > 1:
        listed = ", ".join(imported.classes.values())
        msg = f"{source.text} holds several models: name the one that you mean, out of {listed}"
        raise ModelSourceError(msg)
    ((cls, name),) = imported.classes.items()

    def build(seed: int) -> nn.Module:
        module = build_model(cls, name, arguments, seed)
        if any(is_lazy(tensor) for tensor in (*module.parameters(), *module.buffers())):
            with torch.no_grad():
                module.eval()(torch.zeros((2, *_IMAGE_SHAPE)))
        return module.train()

    return build
