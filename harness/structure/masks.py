"""Operations that combine random numbers with values computed from the images, as a hand-written dropout does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from harness.graph.form import Operation
from harness.structure.dataflow import DataFlow
from harness.structure.fields import FieldMap
from harness.structure.interventions import Interventions
from harness.structure.layers import elements_per_image

_PASSES = 20


@dataclass(frozen=True, kw_only=True)
class Draw:
    """An operation that combines random numbers with values computed from the images, and on which the output depends.

    Args:
        operation: the operation.
        drawn_by: names of the operations that draw the random numbers, such as ``bernoulli``.
        p: measured drop probability; None if the operation is not found to be a dropout, which sets some numbers to zero
            and multiplies all others by the same number.
        elements: how many random numbers are drawn for one image.
    """

    operation: Operation
    drawn_by: tuple[str, ...]
    p: float | None
    elements: int


def find_draws(
    flow: DataFlow, field_maps: Mapping[str, FieldMap], model: Interventions | None, *, training: bool
) -> tuple[Draw, ...]:
    """Find the operations that combine random numbers with values computed from the images.

    Drop probabilities are measured by running ``model``; without a model, ``p`` of every `Draw` is None.
    """
    sources: dict[str, tuple[str, ...]] = {}
    on_path = {operation.name for operation in flow.on_path}
    found = []
    for operation in flow.program.operations:
        name, family = operation.name, operation.kind.family
        refs = list(dict.fromkeys(operation.refs()))
        drawn = [ref for ref in refs if ref in sources]
        draws = family in ("random creation", "random draw")
        names = ((operation.kind.name,) if draws else ()) + tuple(by for ref in drawn for by in sources[ref])
        if not names:
            continue
        if name not in field_maps:
            sources[name] = tuple(dict.fromkeys(names))
            if operation.kind.in_place:
                sources[refs[0]] = sources[name]
        elif name in on_path:
            images = [ref for ref in refs if ref in field_maps]
            by_mask = operation.kind.elementwise and len(images) == 1 and not draws and model is not None
            p = _dropped(model, operation, images[0], training=training) if by_mask and model is not None else None
            elements = max((elements_per_image(flow.shapes[ref]) for ref in drawn), default=0)
            found.append(Draw(operation=operation, drawn_by=tuple(dict.fromkeys(names)), p=p, elements=elements))
    return tuple(found)


def _dropped(model: Interventions, operation: Operation, source: str, *, training: bool) -> float | None:
    """The fraction of an operand's numbers that an operation sets to zero, measured over 20 passes.

    None if the other numbers are not all multiplied by the same number, or if no image has only a part of the numbers set
    to zero.
    """
    shape = model.value(source, training=training).shape
    zeros = total = 0
    mixed = False
    for seed in range(_PASSES):
        # Without zeros, which could not be told from numbers that a dropout sets to zero.
        before = 0.1 + model.normal(shape).abs()
        after = model.run([operation.name], {source: before}, training=training, seed=seed)[operation.name]
        if after.shape != before.shape:
            return None
        kept = after != 0
        factors = (after / before)[kept]
        if len(factors) and not 0 < factors.max() * (1 - model.bound) <= factors.min():
            return None
        rows = kept.reshape(len(kept), -1)
        mixed = mixed or bool((rows.any(1) & ~rows.all(1)).any())
        zeros += int((~kept).sum())
        total += kept.numel()
    return zeros / total if mixed else None
