"""Fully connected layers, however they are written."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from harness.structure.dataflow import DataFlow
from harness.structure.layers import by_x

LinearKind = Literal["linear", "convolution over the whole map"]


@dataclass(frozen=True, kw_only=True)
class LinearSite:
    """A fully connected layer, under its own name or as a convolution whose kernel covers a whole map."""

    module: str
    kind: LinearKind
    detail: str


def find_linear_layers(flow: DataFlow) -> tuple[LinearSite, ...]:
    """Fully connected layers on the way to the output, convolutions over a whole map among them."""
    sites = []
    for operation in flow.on_path:
        if flow.is_weighted_product(operation):
            sites.append(LinearSite(module=operation.module, kind="linear", detail=by_x(operation.shape)))
        elif operation.kind.family == "convolution":
            kernel = tuple(dim for dim in flow.weight_shape(operation)[2:] if isinstance(dim, int))
            source = flow.shapes.get(next(operation.refs()), ())
            if kernel and source[-len(kernel) :] == kernel and math.prod(kernel) > 1:
                sites.append(
                    LinearSite(
                        module=operation.module,
                        kind="convolution over the whole map",
                        detail=f"{by_x(kernel)} kernel on a {by_x(kernel)} map",
                    )
                )
    return tuple(sites)
