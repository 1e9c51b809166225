"""Changes between two graphs or two trainings, as text."""

from __future__ import annotations

import pytest

from harness.goldens.changes import (
    describe_tensors,
    format_shape,
    list_operations,
    operation_changes,
    tensor_changes,
    training_change,
)
from tests.golden_models import captured_net
from tests.made_up import digests


@pytest.mark.smoke  # it captures
def test_added_and_removed_layers_are_named() -> None:
    """With the mode, if it is only one; changed references are listed only if nothing else changed."""
    entries = list_operations(captured_net().graph)
    shorter = [entry for entry in entries if entry[:3] != ["train", "drop", "dropout"]]
    rewired = [
        [*entry[:3], {**entry[3], "input": {"ref": "-9"}}] if entry[1] == "conv2" else entry for entry in entries
    ]
    before = next(entry[3]["input"]["ref"] for entry in entries if entry[1] == "conv2")
    assert [] == operation_changes(entries, entries)
    assert ["drop (dropout): removed (only in train mode)"] == operation_changes(entries, shorter)
    assert ["drop (dropout): added (only in train mode)"] == operation_changes(shorter, entries)
    assert f"conv2 (conv2d): input {before} -> -9" == operation_changes(entries, rewired)[0].partition(" (only")[0]


@pytest.mark.smoke  # it captures
def test_tensors_are_described_by_kind_dtype_and_shape() -> None:
    """A tensor without dimensions has no shape in its description."""
    tensors = describe_tensors(captured_net().graph)
    assert "parameter float32 8x4x3x3" == tensors["conv2.weight"]
    assert "buffer int64" == tensors["norm.num_batches_tracked"]


def test_changed_added_and_removed_tensors_are_listed() -> None:
    """One line each, in the order of the old tensors; equal ones are left out."""
    old = {"a": "parameter float32 8", "b": "buffer float32 8", "c": "buffer float32 8"}
    new = {"a": "parameter float32 9", "c": "buffer float32 8", "d": "constant int64"}
    expected = [
        "a: parameter float32 8 -> parameter float32 9",
        "b: buffer float32 8 -> none",
        "d: none -> constant int64",
    ]
    assert expected == tensor_changes(old, new)
    assert "8x1x3x3" == format_shape((8, 1, 3, 3))


def test_the_first_difference_of_two_trainings_is_located() -> None:
    """By its step and kind, with the last step whose digests agree; a shorter training differs by its end."""
    old = (digests(0), digests(10), digests(20), digests(30))
    changed = (*old[:2], digests(20, order="0" * 15 + "f"), digests(30))
    assert "" == training_change(old, old)
    assert "differs at step 20 in the order of the images; the digests of step 10 agree" == training_change(
        old, changed
    )
    assert "differs before the first step in the buffers" == training_change(
        old, (digests(0, buffers="f" * 16), *old[1:])
    )
    assert "ends after step 20, not after step 30" == training_change(old, old[:3])
