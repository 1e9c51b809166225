"""Receptive fields in figures, and the table of them that students write by hand."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

from harness.graph import CapturedModel
from harness.structure import FieldRow, Structure, field_of, field_table
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


def table(model: CapturedModel) -> tuple[FieldRow, ...]:
    """The rows for a captured model."""
    structure = Structure(model.graph)
    return field_table(structure.graph, structure.field_maps)


def test_the_table_of_a_published_model(shipped: Shipped) -> None:
    """Kernel, map sizes, jumps and fields of rf_study_1, whose document has them wrong from the pooling on."""
    rows = table(shipped("rf_study_1"))

    assert ["3", "3", "3", "2", "1", "3", "3", "1", "7"] == [row.kernel for row in rows]
    assert ["26", "24", "22", "11", "11", "9", "7", "7", "1"] == [row.positions_out for row in rows]
    assert [1, 1, 1, 2, 2, 2, 2, 2, 2] == [row.jump_out for row in rows]
    assert ["3", "5", "7", "8", "8", "12", "16", "16", "28"] == [row.size for row in rows]
    assert {"exact"} == {row.certainty for row in rows}


def test_joins_and_resizes_have_rows(shipped: Shipped) -> None:
    """A resized shortcut has a row without a kernel, and the field beyond the image is kept and shown clipped, too."""
    rows = {f"{row.title} {row.module}".strip(): row for row in table(shipped("cloud_3"))}

    assert ("", "10x10", None) == (
        rows["Resize (nearest)"].kernel,
        f"{rows['Resize (nearest)'].positions_in}x{rows['Resize (nearest)'].size}",
        rows["Resize (nearest)"].jump_out,
    )
    assert ("32", "28") == (rows["AvgPool2d gap"].size, rows["AvgPool2d gap"].clipped)
