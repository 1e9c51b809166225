"""Pictures of a network over an image, drawn with matplotlib, which is an extra."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import InputError
from harness.files import write_whole

_COLUMNS = 7
_FORMATS = ("png", "svg")
_FIELD = "#e4572e"
_BEYOND = "#f3a712"


@dataclass(frozen=True, kw_only=True)
class MapPicture:
    """One stage of a network.

    Args:
        title: the operation that gives the map.
        size: the map's shape in words, such as ``16x24x24``.
        field: the receptive field in words.
        rows: first and last image row that the middle position sees, on an unbounded image.
        columns: first and last column, likewise.
        activation: the map, averaged over channels, as rows of numbers.
    """

    title: str
    size: str
    field: str
    rows: tuple[int, int]
    columns: tuple[int, int]
    activation: Sequence[Sequence[float]]


def plot_maps(path: Path, *, title: str, image: Sequence[Sequence[float]], maps: Sequence[MapPicture]) -> None:
    """Draw the stages of a network as a strip: above, what the middle position sees of the image; below, the map.

    The solid frame is the part of the receptive field inside the image, the dashed one the field on an unbounded image.

    Args:
        path: where to write; ``.png`` or ``.svg``.
        title: heading of the picture.
        image: the input, as rows of numbers.
        maps: the stages, in order.

    Raises:
        InputError: another format, matplotlib is not installed, or the file cannot be written.
    """
    kind = path.suffix.removeprefix(".")
    if kind not in _FORMATS:
        msg = f"expected a picture's name that ends in {' or '.join('.' + name for name in _FORMATS)}, found {path.name!r}"
        raise InputError(msg)
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - an extra
        from matplotlib.patches import Rectangle  # noqa: PLC0415
    except ImportError as error:
        msg = "a picture needs matplotlib, which is not installed: install the extra with `pip install 'mnist-harness[plot]'`"
        raise InputError(msg) from error
    bands = -(-len(maps) // _COLUMNS)
    columns = min(len(maps), _COLUMNS)
    figure = Figure(figsize=(1.75 * columns, 3.8 * bands + 0.5), layout="constrained", facecolor="white")
    figure.suptitle(title, fontsize=12)
    axes = figure.subplots(2 * bands, columns, squeeze=False)
    height, width = len(image), len(image[0])
    for index, stage in enumerate(maps):
        band, column = divmod(index, columns)
        above, below = axes[2 * band][column], axes[2 * band + 1][column]
        above.imshow(image, cmap="gray_r", interpolation="nearest")
        first_row, last_row = stage.rows
        first_column, last_column = stage.columns
        whole = Rectangle(
            (first_column - 0.5, first_row - 0.5),
            last_column - first_column + 1,
            last_row - first_row + 1,
            fill=False,
            edgecolor=_BEYOND,
            linestyle="--",
            linewidth=1.2,
            clip_on=False,
        )
        top, bottom = max(first_row, 0), min(last_row, height - 1)
        left, right = max(first_column, 0), min(last_column, width - 1)
        inside = Rectangle(
            (left - 0.5, top - 0.5), right - left + 1, bottom - top + 1, fill=False, edgecolor=_FIELD, linewidth=1.8
        )
        above.add_patch(whole)
        above.add_patch(inside)
        # A margin, so that a field beyond the image does not run into the next picture.
        above.set_xlim(-6.5, width + 5.5)
        above.set_ylim(height + 5.5, -6.5)
        above.set_title(f"{index + 1}. {stage.title}", fontsize=8)
        above.set_xlabel(f"field {stage.field}", fontsize=8)
        below.imshow(stage.activation, cmap="viridis", interpolation="nearest")
        below.set_xlabel(stage.size, fontsize=8)
    for row in axes:
        for axis in row:
            axis.set_xticks([])
            axis.set_yticks([])
            axis.set_visible(bool(axis.images))
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=150)
    write_whole(path, buffer.getvalue())
