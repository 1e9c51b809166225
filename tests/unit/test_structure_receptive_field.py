"""Receptive fields in figures: known ones of shipped models and of one convolution."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

from harness.graph import CapturedModel
from harness.structure import Structure, field_of
from harness.structure.field_trace import trace_fields
from tests.made_up import convolution_graph

Shipped = Callable[[str], CapturedModel]


def test_the_study_s_table(shipped: Shipped) -> None:
    """`rf_study_1` gives the figures of its document's table, the pooling's corrected."""
    graph = shipped("rf_study_1").graph
    field_maps = trace_fields(graph, graph.evaluate)
    sizes = [
        field_of(field_maps[operation.name]).size
        for operation in graph.evaluate.operations
        if operation.op.split(".")[1] in ("conv2d", "max_pool2d")
    ]
    assert [3, 5, 7, 8, 8, 12, 16, 16, 28] == sizes


def test_before_and_with_the_head(shipped: Shipped) -> None:
    """`cloud_1` sees 22 pixels before the pooling of its head and 32, beyond the image, with it."""
    structure = Structure(shipped("cloud_1").graph)
    before, after = structure.field_before_head[1], structure.field_with_head
    assert (22, 22, "exact") == (before.size, before.clipped, before.certainty)
    assert (32, 28, "exact") == (after.size, after.clipped, after.certainty)
    assert Fraction(2) == before.rows.jump


def test_the_figures_of_one_convolution() -> None:
    """Size, jump, start and intervals an axis, beyond the image and inside it."""
    graph = convolution_graph()
    field = field_of(trace_fields(graph, graph.evaluate)["y"])
    rows, columns = field.rows, field.columns
    assert (3, 3, Fraction(2), -1) == (rows.size, rows.clipped, rows.jump, rows.start)
    assert ((-1, 1), (1, 3), (3, 5)) == rows.intervals
    assert (2, 2, Fraction(1), 0) == (columns.size, columns.clipped, columns.jump, columns.start)
    assert ((0, 1), (1, 2), (2, 3)) == columns.intervals
    assert (2, 2, "exact", "") == (field.size, field.clipped, field.certainty, field.note)
