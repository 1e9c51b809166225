"""The algebra of fields: taps, broadcasting, unions of paths."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np

from harness.structure.fields import AxisField, FieldMap, FieldPath

IMAGE = AxisField.identity(6)
PAIRS = [[0, 1], [2, 3], [4, 5]]


def field_map(*rows: AxisField, mixed: bool = False) -> FieldMap:
    """A map of one column whose paths differ in what they see of the rows."""
    paths = tuple(FieldPath(rows=row, columns=AxisField.identity(1)) for row in rows)
    return FieldMap(axes=(("N",), ("C",), ("H",), ("W",)), paths=paths, mixed=mixed)


def test_taps_move_and_widen_a_field() -> None:
    """Two operations with windows of two and stride two see four pixels, four apart; padding is kept."""
    once = IMAGE.through(PAIRS, stride=Fraction(2))
    twice = once.through([[-1, 0], [1, 2]], stride=Fraction(2))

    assert ((0, 2, 4), (1, 3, 5), Fraction(2)) == (once.low, once.high, once.jump)
    assert ((-2, 2), (1, 5), Fraction(4)) == (twice.low, twice.high, twice.jump)
    assert [[True, True, False, False, False, False], [False, False, True, True, True, True]] == twice.mask.tolist()


def test_an_axis_remembers_how_it_was_reduced_to_one_position() -> None:
    """A mean of all positions is an average of six; a broadcast of it is none."""
    mean = IMAGE.whole(how="average")

    assert ("average", 6, 1) == (mean.collapsed, mean.collapsed_from, mean.positions)
    assert ("", 1, 6) == (mean.broadcast(6).collapsed, mean.broadcast(6).collapsed_from, mean.broadcast(6).positions)
    assert np.ones((6, 6), dtype=bool).tolist() == IMAGE.whole_everywhere().mask.tolist()


def test_covered_paths_are_dropped() -> None:
    """A path that sees no more than another one adds nothing; one that sees more replaces it."""
    wide = IMAGE.through([[max(i - 1, 0), i] for i in range(6)])

    assert IMAGE.within(wide)
    assert not wide.within(IMAGE)
    assert (wide,) == tuple(path.rows for path in field_map(IMAGE, wide).pruned().paths)
    assert field_map(IMAGE, wide).same_paths(field_map(wide))
    assert not field_map(IMAGE).same_paths(field_map(wide))


def test_too_many_paths_become_a_bound() -> None:
    """Seventeen paths that see different pixels are described by the rectangle around them, which is a bound."""
    pixels = [AxisField.identity(17).through([[i]], stride=None) for i in range(17)]
    pruned = field_map(*pixels).pruned()

    assert (1, "bound") == (len(pruned.paths), pruned.certainty)
    assert ((0,), (16,)) == (pruned.paths[0].rows.low, pruned.paths[0].rows.high)
    assert "exact" == field_map(*pixels[:16]).pruned().certainty


def test_some_channels_of_a_mixed_map_are_a_bound() -> None:
    """Where channels see different parts, some of them see no more than all; certainty never improves."""
    assert "exact" == field_map(IMAGE).some_channels().certainty
    assert "bound" == field_map(IMAGE, mixed=True).some_channels().certainty
    unknown = replace(field_map(IMAGE, mixed=True), certainty="unknown", note="first")
    assert ("unknown", "first") == (unknown.some_channels().certainty, unknown.some_channels().note)
