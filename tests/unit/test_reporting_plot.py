"""Pictures of a network over an image."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import InputError
from harness.reporting import MapPicture, markdown_table, plot_maps

IMAGE = [[0.0] * 28 for _ in range(28)]
STAGES = [
    MapPicture(
        title=f"Stage {index}",
        size="8x26x26",
        field=str(3 + index),
        rows=(-2, 3 + index),
        columns=(12, 40),
        activation=[[0.0, 1.0], [2.0, 3.0]],
    )
    for index in range(9)
]


@pytest.mark.parametrize(("name", "start"), [("strip.png", b"\x89PNG"), ("strip.svg", b"<?xml")])
def test_a_picture_is_written(tmp_path: Path, name: str, start: bytes) -> None:
    """More stages than fit in a row become a picture of the format that the name asks for."""
    plot_maps(tmp_path / name, title="net", image=IMAGE, maps=STAGES)

    assert start == (tmp_path / name).read_bytes()[: len(start)]
    assert [name] == [path.name for path in tmp_path.iterdir()]


def test_another_format_is_refused(tmp_path: Path) -> None:
    """Only the formats that are offered are taken, and nothing is written."""
    with pytest.raises(InputError, match=r"ends in \.png or \.svg, got 'strip.gif'"):
        plot_maps(tmp_path / "strip.gif", title="net", image=IMAGE, maps=STAGES)

    assert [] == list(tmp_path.iterdir())


def test_a_markdown_table_is_padded() -> None:
    """Columns are as wide as their widest cell, so that the source reads as a table, too."""
    table = markdown_table(("layer", "field"), [("Conv2d", "3"), ("x", "10")])

    assert [
        "| layer  | field |",
        "|--------|-------|",
        "| Conv2d | 3     |",
        "| x      | 10    |",
    ] == table.splitlines()
