"""Updating goldens: changes are listed, and entries of other environments are kept as long as they apply."""

from __future__ import annotations

import dataclasses

import pytest

from harness.goldens.golden import BitExactResults, Golden
from harness.goldens.update import update_golden
from harness.graph import CapturedModel
from harness.training import Recipe
from tests.golden_models import all_next_floats, captured_net, net_golden, one_percent, spec_of, with_state
from tests.made_up import RECIPE

pytestmark = [pytest.mark.smoke, pytest.mark.usefixtures("golden_training_once")]  # it captures and trains


def entry_here() -> BitExactResults:
    """The small network's results in this environment."""
    (entry,) = net_golden().bits
    return entry


def other_entry() -> BitExactResults:
    """The same results, recorded for another environment."""
    return dataclasses.replace(entry_here(), key=dataclasses.replace(entry_here().key, threads=77))


def golden_with(*entries: BitExactResults) -> Golden:
    """The small network's golden with these entries."""
    return dataclasses.replace(net_golden(), bits=entries)


def update(model: CapturedModel, old: Golden | None, recipe: Recipe = RECIPE) -> tuple[Golden, tuple[str, ...]]:
    """The updated golden and the changes."""
    updated = update_golden(model, spec_of(model, recipe), old)
    return updated.golden, updated.changes


def test_an_update_without_changes_returns_the_old_golden() -> None:
    """The very same object, and no line."""
    assert (net_golden(), ()) == update(captured_net(), net_golden())


def test_a_first_golden_is_new() -> None:
    """With the environment that it was made in."""
    assert (f"new golden, with results for {entry_here().key.describe()}",) == update(captured_net(), None)[1]


def test_a_new_environment_is_added() -> None:
    """Entries of other environments are kept, and so is everything that does not depend on the environment."""
    old = golden_with(other_entry())
    golden, changes = update(captured_net(), old)
    assert (f"new results for {entry_here().key.describe()}",) == changes
    assert ((entry_here(), other_entry()), old.depths) == (golden.bits, golden.depths)


def test_changed_weights_drop_other_environments() -> None:
    """A rounding: the tensor, the depths and the training are listed, then the dropped entry with the reason."""
    changed = with_state(captured_net(), "conv2.weight", all_next_floats)
    golden, changes = update(changed, golden_with(entry_here(), other_entry()))
    assert ["conv2.weight", "features", "before the head", "logits", "training"] == [
        line.partition(":")[0] for line in changes[:-1]
    ]
    assert f"conv2.weight: {entry_here().tensors['conv2.weight']} -> " in changes[0]
    assert changes[-1].startswith("results removed, since the initial weights changed: torch")
    assert changes[-1].endswith("77 threads")
    assert [entry_here().key] == [entry.key for entry in golden.bits]


def test_changed_weights_are_found_by_the_outputs_if_bits_cannot_be_compared() -> None:
    """Against another environment a rounding is accepted; one per cent drops it, with the size of the change by depth."""
    old = golden_with(other_entry())
    assert 2 == len(update(with_state(captured_net(), "conv2.weight", all_next_floats), old)[0].bits)
    golden, changes = update(with_state(captured_net(), "head.weight", one_percent), old)
    assert 1 == len(golden.bits)
    assert ["logits", f"new results for {entry_here().key.describe()}"] == [changes[0].partition(":")[0], changes[1]]
    assert "% of the largest value" in changes[0]


def test_results_of_another_machine_are_replaced_with_its_difference() -> None:
    """If the same key was recorded on another machine, and a result differs."""
    digests = {**entry_here().outputs, "logits": "0" * 16}
    recorded = dataclasses.replace(entry_here(), outputs=digests, machine={**entry_here().machine, "driver": "1.2"})
    golden, changes = update(captured_net(), golden_with(recorded))
    expected = (f"logits: {'0' * 16} -> {entry_here().outputs['logits']}", "machine: driver: 1.2 -> None")
    assert expected == changes
    assert (entry_here(),) == golden.bits


def test_a_changed_recipe_or_graph_drops_other_environments() -> None:
    """With the changed settings."""
    old = golden_with(entry_here(), other_entry())
    recipe = dataclasses.replace(RECIPE, optimizer=dataclasses.replace(RECIPE.optimizer, lr=0.05))
    _, changes = update(captured_net(), old, recipe)
    assert "recipe: optimizer.lr: 0.1 -> 0.05" == changes[0]
    assert changes[-1].startswith("results removed, since the recipe changed")
    _, changes = update(captured_net(padding=1), old)
    assert "graph: conv1 (conv2d): padding (0, 0) -> (1, 1)" in changes
    assert changes[-1].startswith("results removed, since the graph changed")
    # Maps of another size, and no result of this environment on record.
    _, changes = update(captured_net(padding=1), golden_with(other_entry()))
    assert changes[-1].startswith("results removed, since the graph changed")


def test_another_source_and_other_images_are_listed() -> None:
    """With the old and the new value; other images drop other environments."""
    old = dataclasses.replace(golden_with(entry_here(), other_entry()), source="old.py:Net", images="0" * 16)
    golden, changes = update(captured_net(), old)
    assert ("source: old.py:Net -> net.py:Net", f"images: {'0' * 16} -> {net_golden().images}") == changes[:2]
    assert changes[2].startswith("results removed, since the fixed images changed")
    assert "net.py:Net" == golden.source
