"""Receptive fields by experiment: one input pixel is set to NaN, which propagates wherever it is read.

A NaN passes through sums, maxima, saturated activations and zero weights, where a gradient would vanish, so the values
that become NaN are those that read the pixel. The experiment shares only the graph with
`harness.structure.field_trace`, and must agree with it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Iterator
from contextlib import contextmanager

import numpy as np
import torch

from harness.graph.form import Operation
from harness.graph.rebuild import GraphModule
from harness.structure.fields import FieldMap, Mask

# Enough images at once to keep one core busy, few enough that every value of a small network stays under 200 MB.
_IMAGES_A_PASS = 56
_SEED = 7_919
_MAP_DIMS = 4

# Like the comparisons they hide a NaN, or give one that was not read: neither their results nor what depends on them can be
# probed.
_HIDING = frozenset(
    """
    all any argmax argmin bernoulli empty empty_like index masked_fill pow sign topk where xlogy
    """.split()  # noqa: SIM905 - a row of names is easier to read
)


def probe_receptive_field(module: GraphModule, value_names: Collection[str] | None = None) -> dict[str, Mask]:
    """Find by experiment which input pixels each value of the evaluation program reads.

    Each pixel in turn is NaN in all its channels, in an image of its own among finite ones. Convolutions run on plain
    im2col kernels: Winograd and vectorised ones would smear the NaN over a tile. 0.6 s for a network of 8,000 parameters
    on 1x28x28 on one core of a 2020s x86 server.

    Args:
        module: the rebuilt model; not modified, as a copy is run on the CPU.
        value_names: the values to probe; all of them by default.

    Returns:
        For each value ``(rows, columns, input rows, input columns)``, true where the position reads the pixel in any
        channel. A value without exactly four dimensions counts as one position. Omitted are: values that hold no
        floating-point numbers or no batch dimension of their own, values that are NaN on a finite image, those that an
        operation in place changes later, and those behind an operation that hides a NaN, such as a comparison.

    Raises:
        ValueError: the graph's input is not an image ``(channels, height, width)``.
    """
    graph = module.graph
    if len(graph.input_shape) != 3:  # noqa: PLR2004 - channels, height, width
        message = f"expected an image input (channels, height, width), got input_shape={list(graph.input_shape)}"
        raise ValueError(message)
    probed = copy.deepcopy(module).cpu().eval()
    # What an operation in place changes later is no longer the value that was seen here.
    changed = {next(operation.refs(), "") for operation in graph.evaluate.operations if operation.kind.in_place}
    batch_axes = {
        operation.name: operation.shape.index("B")
        for operation in _transparent(graph.evaluate.operations)
        if "B" in operation.shape
        and operation.name not in changed
        and (value_names is None or operation.name in value_names)
    }
    clean = torch.randn((1, *graph.input_shape), generator=torch.Generator().manual_seed(_SEED))
    with torch.no_grad(), _plain_kernels(), torch.random.fork_rng(devices=[]):
        sound = {
            name
            for name, value in probed.trace(clean).items()
            if name in batch_axes and value.is_floating_point() and not bool(value.isnan().any())
        }
        axes = {name: axis for name, axis in batch_axes.items() if name in sound}
        found = _run(probed, clean, axes, _IMAGES_A_PASS)
        if found is None:
            # The images of a batch influence each other: each gets a batch of its own.
            found = _run(probed, clean, axes, 1)
    height, width = graph.input_shape[1:]
    return {
        name: np.ascontiguousarray(np.moveaxis(mask.reshape(height, width, *mask.shape[1:]), (0, 1), (2, 3)))
        for name, mask in (found or {}).items()
    }


def confirms(field_map: FieldMap, probed: Mask) -> bool:
    """Whether the probed field confirms the traced one: equal if that is exact, otherwise contained in it.

    Args:
        field_map: the field traced by `harness.structure.field_trace`.
        probed: the field found by `probe_receptive_field`.
    """
    traced = field_map.seen()
    if len(field_map.axes) != _MAP_DIMS or field_map.axes[2:] != (("H",), ("W",)):
        # Not rows and columns, in this order: compare what all positions see together.
        traced, probed = (np.any(mask, axis=(0, 1))[None, None] for mask in (traced, probed))
    if traced.shape != probed.shape:
        return False
    return bool(np.array_equal(traced, probed) if field_map.certainty == "exact" else not (probed & ~traced).any())


def _run(probed: GraphModule, clean: torch.Tensor, axes: dict[str, int], images: int) -> dict[str, Mask] | None:
    """A mask ``(pixels, rows, columns)`` for each value; None if the finite image in the batch becomes NaN."""
    pixels = math.prod(clean.shape[2:])
    parts: dict[str, list[Mask]] = {name: [] for name in axes}
    for start in range(0, pixels, images):
        count = min(images, pixels - start)
        batch = clean.repeat(count + (images > 1), 1, 1, 1)
        # The i-th image lacks the i-th pixel; the last one, if there are several, is clean.
        each = torch.arange(count)
        batch.flatten(2)[each, :, start + each] = torch.nan
        values = probed.trace(batch)
        for name, axis in axes.items():
            missing = values[name].movedim(axis, 0).isnan()
            missing = (
                missing.any(1) if missing.ndim == _MAP_DIMS else missing.reshape(len(missing), -1).any(1)[:, None, None]
            )
            if images > 1 and bool(missing[count].any()):
                return None
            parts[name].append(missing[:count].numpy())
    return {name: np.concatenate(masks) for name, masks in parts.items()}


def _transparent(operations: tuple[Operation, ...]) -> Iterator[Operation]:
    """Operations that a NaN reaches without an earlier operation blocking it."""
    hidden: set[str] = set()
    for operation in operations:
        hides = operation.kind.family == "comparison" or operation.kind.name in _HIDING
        if hides or hidden.intersection(operation.refs()):
            hidden.add(operation.name)
            if operation.kind.in_place:
                hidden.update(operation.refs())
        else:
            yield operation


@contextmanager
def _plain_kernels() -> Iterator[None]:
    mkldnn = torch.backends.mkldnn
    was_enabled = mkldnn.enabled
    # Not mkldnn.flags(): it also sets TF32, which warns where there is none.
    mkldnn.enabled = False  # type: ignore[assignment]  # torch types the property as its descriptor
    try:
        with torch.backends.nnpack.flags(enabled=False):
            yield
    finally:
        mkldnn.enabled = was_enabled
