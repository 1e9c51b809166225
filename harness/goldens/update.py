"""Update a golden to the current results of a model, and list the changes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from harness.goldens.changes import format_shape, operation_changes, tensor_changes, training_change
from harness.goldens.golden import BitExactResults, Golden
from harness.goldens.measurement import max_abs_difference, measure_golden
from harness.graph import CapturedModel
from harness.reproducibility import setting_differences
from harness.training import RunSpec


@dataclass(frozen=True, kw_only=True, eq=False)
class Update:
    """The updated golden, or the old golden if nothing changed, and a line for each change."""

    golden: Golden
    changes: tuple[str, ...]


def update_golden(captured: CapturedModel, spec: RunSpec, old: Golden | None) -> Update:
    """Compute the results of a model in this environment, and update the golden ``old``, or make a new golden if None.

    Results of other environments are kept, unless the graph, the initial weights, the recipe or the fixed images changed. The
    model must have the initial weights of seed 1; the results are computed on the device of ``spec``.

    Raises:
        InputError: two runs differ, the model does not run in double precision, or an output is infinite or NaN.
    """
    new = measure_golden(captured, spec)
    entry = new.bits[0]
    if old is None:
        return Update(golden=new, changes=(f"new golden, with results for {entry.key.describe()}",))
    changes = [*_common_changes(old, new), *_entry_changes(old.entry_for(entry.key), entry)]
    if not changes:
        return Update(golden=old, changes=())
    others = [other for other in old.bits if other.key != entry.key]
    reason = _why_outdated(old, new)
    if reason:
        dropped = [f"results removed, since {reason}: {other.key.describe()}" for other in others]
        return Update(golden=new, changes=(*changes, *dropped))
    entries = tuple(sorted((*others, entry), key=lambda entry: entry.key))
    golden = dataclasses.replace(old, source=spec.source, arguments=spec.arguments, bits=entries)
    return Update(golden=golden, changes=tuple(changes))


def _why_outdated(old: Golden, new: Golden) -> str:
    """Why the results of other environments in the golden ``old`` no longer apply; empty if they apply."""
    # The weights are compared last: by outputs, which have equal shapes only if graph and images are the same.
    if old.graph != new.graph:
        return "the graph changed"
    if old.recipe != new.recipe:
        return "the recipe changed"
    if old.images != new.images:
        return "the fixed images changed"
    return "the initial weights changed" if _weights_changed(old, new) else ""


def _weights_changed(old: Golden, new: Golden) -> bool:
    """Whether the initial weights changed: by digests if ``old`` has results of this machine, otherwise by the outputs.

    On another machine, the same seed can give weights that differ by rounding errors.
    """
    now, recorded = new.bits[0], old.entry_for(new.bits[0].key)
    if old.tensors != new.tensors:
        return True
    if recorded is not None and recorded.machine == now.machine:
        return recorded.tensors != now.tensors
    return any(
        not max_abs_difference(new.values[depth.name], old.values[depth.name]) <= depth.tolerance
        for depth in old.depths
    )


def _common_changes(old: Golden, new: Golden) -> list[str]:
    lines = []
    if (old.source, old.arguments) != (new.source, new.arguments):
        lines.append(f"source: {old.source} {old.arguments}".rstrip() + f" -> {new.source} {new.arguments}".rstrip())
    if old.graph != new.graph:
        lines.append(f"graph: {old.graph} -> {new.graph}")
        lines += [f"graph: {line}" for line in operation_changes(old.operations, new.operations)]
    lines += tensor_changes(old.tensors, new.tensors)
    if old.images != new.images:
        lines.append(f"images: {old.images} -> {new.images}")
    before = {depth.name: depth for depth in old.depths}
    for depth in new.depths:
        recorded = before[depth.name]
        if depth.shape != recorded.shape:
            lines.append(f"{depth.name}: {format_shape(recorded.shape)} -> {format_shape(depth.shape)}")
            continue
        difference = max_abs_difference(new.values[depth.name], old.values[depth.name])
        # On another machine, initial weights and thereby outputs can differ by rounding errors.
        if not difference <= recorded.tolerance:
            lines.append(f"{depth.name}: changes by {recorded.describe_difference(difference)}")
    return lines + [f"recipe: {line}" for line in setting_differences(old.recipe, new.recipe)]


def _entry_changes(recorded: BitExactResults | None, now: BitExactResults) -> list[str]:
    if recorded is None:
        return [f"new results for {now.key.describe()}"]
    pairs = ((recorded.tensors, now.tensors), (recorded.outputs, now.outputs))
    lines = [
        f"{name}: {old[name]} -> {new[name]}"
        for old, new in pairs
        for name in new
        if old.get(name, new[name]) != new[name]
    ]
    if change := training_change(recorded.training, now.training):
        lines.append(f"training: {change}")
    machine = setting_differences(recorded.machine, now.machine) if lines else []
    return [*lines, *(f"machine: {line}" for line in machine)]
