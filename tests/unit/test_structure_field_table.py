"""The receptive-field table that students write by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from harness.graph import CapturedModel
from harness.structure import FieldRow, Structure, field_table

Shipped = Callable[[str], CapturedModel]
Command = Callable[..., tuple[int, str, str]]


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


@pytest.mark.usefixtures("quick_load")
def test_show_prints_the_table_ready_to_paste(command: Command, tmp_path: Path) -> None:
    """`show --receptive-field` prints Markdown and nothing else; `--plot` draws the same stages."""
    picture = tmp_path / "net.png"
    code, out, err = command("show", "rf_study_1", "--receptive-field", "--plot", picture)

    assert (0, "| layer") == (code, out[:7])
    assert 11 == len(out.splitlines())
    assert picture.exists()
    assert str(picture) in err
