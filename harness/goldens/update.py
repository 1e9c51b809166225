"""Putting a model on record, and saying what is new about it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from harness.goldens.changes import by, operation_changes, setting_changes, training_change
from harness.goldens.golden import Bits, Golden, apart, measure
from harness.graph import CapturedModel
from harness.training import RunSpec


@dataclass(frozen=True, kw_only=True, eq=False)
class Update:
    """A golden made anew, and what is new about it, a line each; none where the one on record says the same."""

    golden: Golden
    changes: tuple[str, ...]


def update_golden(captured: CapturedModel, spec: RunSpec, old: Golden | None) -> Update:
    """Put a model on record in this environment.

    What other environments have on record stays, unless graph, initial weights, recipe or fixed images changed: it is of
    another model then.

    Args:
        captured: the model, with its initial weights as drawn under seed 1.
        spec: its recipe, the device to compute on, and what the user named the model by.
        old: the golden on record, None where there is none.

    Raises:
        InputError: two runs here differ, the model does not run in double precision, or an output is not finite.
    """
    new = measure(captured, spec)
    bits = new.bits[0]
    if old is None:
        return Update(golden=new, changes=(f"new, with {bits.key.words()}",))
    earlier = old.at(bits.key)
    changes = [*_lasting_changes(old, new), *_bit_changes(earlier, bits)]
    if not changes:
        return Update(golden=old, changes=())
    others = [entry for entry in old.bits if entry.key != bits.key]
    reason = _why_stale(old, new)
    if reason:
        dropped = [f"dropped, since {reason}: {entry.key.words()}" for entry in others]
        return Update(golden=new, changes=(*changes, *dropped))
    entries = tuple(sorted((*others, bits), key=lambda entry: entry.key))
    golden = dataclasses.replace(old, source=spec.source, arguments=spec.arguments, bits=entries)
    return Update(golden=golden, changes=tuple(changes))


def _why_stale(old: Golden, new: Golden) -> str:
    """Why what other environments have on record no longer stands; empty where it does."""
    reasons = {
        "the graph changed": old.graph != new.graph,
        "the initial weights changed": _weights_changed(old, new),
        "the recipe changed": old.recipe != new.recipe,
        "the fixed images changed": old.images != new.images,
    }
    return next((words for words, holds in reasons.items() if holds), "")


def _weights_changed(old: Golden, new: Golden) -> bool:
    """Whether other weights are drawn now: by their bits where those can be compared, else by what comes of them.

    Two environments may draw weights that differ by a rounding.
    """
    now, earlier = new.bits[0], old.at(new.bits[0].key)
    if old.tensors != new.tensors:
        return True
    if earlier is not None and earlier.machine == now.machine:
        return earlier.tensors != now.tensors
    return any(not apart(new.values[depth.name], old.values[depth.name]) <= depth.tolerance for depth in old.depths)


def _lasting_changes(old: Golden, new: Golden) -> list[str]:
    """What is new about all that no environment changes."""
    lines = []
    if (old.source, old.arguments) != (new.source, new.arguments):
        lines.append(
            f"made from {new.source} {new.arguments}".rstrip() + f", not {old.source} {old.arguments}".rstrip()
        )
    if old.graph != new.graph:
        lines.append(f"graph: {old.graph} -> {new.graph}")
        lines += [f"graph: {line}" for line in operation_changes(old.operations, new.operations)]
    lines += [
        f"{name}: {old.tensors.get(name, 'not on record')} -> {new.tensors.get(name, 'no longer there')}"
        for name in dict.fromkeys((*old.tensors, *new.tensors))
        if old.tensors.get(name) != new.tensors.get(name)
    ]
    if old.images != new.images:
        lines.append(f"images: {old.images} -> {new.images}")
    before = {depth.name: depth for depth in old.depths}
    for depth in new.depths:
        earlier = before[depth.name]
        if depth.shape != earlier.shape:
            lines.append(f"{depth.name}: {by(earlier.shape)} -> {by(depth.shape)}")
            continue
        size = apart(new.values[depth.name], old.values[depth.name])
        # Weights that another environment drew are the same but for a rounding.
        if not size <= earlier.tolerance:
            lines.append(f"{depth.name}: moves by {earlier.size(size)}")
    return lines + [f"recipe: {line}" for line in setting_changes(old.recipe, new.recipe)]


def _bit_changes(earlier: Bits | None, now: Bits) -> list[str]:
    """What is new about this environment."""
    if earlier is None:
        return [f"new: {now.key.words()}"]
    pairs = ((earlier.tensors, now.tensors), (earlier.outputs, now.outputs))
    lines = [
        f"{name}: {on_record[name]} -> {digests[name]}"
        for on_record, digests in pairs
        for name in digests
        if on_record.get(name, digests[name]) != digests[name]
    ]
    if parted := training_change(earlier.training, now.training):
        lines.append(f"training: {parted}")
    unlike = setting_changes(earlier.machine, now.machine) if lines else []
    return [*lines, *(f"made on another machine before: {line}" for line in unlike)]
