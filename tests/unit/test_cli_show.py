"""`harness show`: layers, facts and card of a model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

Command = Callable[..., tuple[int, str, str]]


@pytest.mark.usefixtures("quick_load")
def test_show_prints_the_layers(command: Command) -> None:
    """The layer table has the published shapes and counts, and the module that is never called is named."""
    code, out, _ = command("show", "cloud_1")
    lines = [" ".join(line.split()) for line in out.splitlines()]

    assert 0 == code
    assert "Conv2d 3x3 block1.0 16x26x26 144 3" in lines
    assert "MaxPool2d 2x2 pool 10x12x12 0 6" in lines
    assert "parameters 13,808, of which 13,808 are trainable" in lines
    assert "never called dropout (Dropout)" in lines
    assert any(line.startswith("expected misses the accuracy rule of era-s7") for line in lines)


@pytest.mark.usefixtures("quick_load")
@pytest.mark.parametrize(("name", "reported"), [("five_step_4", True), ("cloud_2", False)])
def test_show_reports_operations_after_the_last_convolution(name: str, reported: object, command: Command) -> None:
    """The ReLU between the last convolution of five_step_4 and its output is reported; cloud_2 has no such operation."""
    _, out, _ = command("show", name)

    assert reported is ("ReLU between Conv2d head and the output" in out)


@pytest.mark.usefixtures("quick_load")
def test_show_prints_the_table_ready_to_paste(command: Command, tmp_path: Path) -> None:
    """`show --receptive-field` prints Markdown and nothing else; `--plot` draws the same stages."""
    picture = tmp_path / "net.png"
    code, out, err = command("show", "rf_study_1", "--receptive-field", "--plot", picture)

    assert (0, "| layer") == (code, out[:7])
    assert 11 == len(out.splitlines())
    assert picture.exists()
    assert str(picture) in err
