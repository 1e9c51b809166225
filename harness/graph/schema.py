"""The declared signatures of ATen operations: arguments by name, defaults filled in."""

from __future__ import annotations

from functools import cache

import torch

from harness.graph.form import Argument, Operation


def bind(operation: Operation) -> dict[str, Argument]:
    """The operation's arguments by their declared names, defaults included.

    An operation unknown to this version of torch keeps only its keyword arguments.
    """
    declared = _arguments(operation.op)
    bound: dict[str, Argument] = dict(declared)
    names = [name for name, _ in declared]
    bound.update(zip(names, operation.args, strict=False))
    bound.update(operation.kwargs)
    return bound


@cache
def _arguments(op: str) -> tuple[tuple[str, Argument], ...]:
    parts = op.split(".")
    if parts[0] != "aten":
        return ()
    overload = getattr(getattr(torch.ops.aten, parts[1], None), parts[-1], None)
    if overload is None:
        return ()
    return tuple((argument.name, _plain(argument.default_value)) for argument in overload._schema.arguments)  # noqa: SLF001 - torch has no public way to read a schema


def _plain(value: object) -> Argument:
    if isinstance(value, list | tuple):
        return tuple(_plain(item) for item in value)
    return value if isinstance(value, bool | int | float | str) else None
