"""Pictures of feature maps and of images."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import InputError
from harness.files import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLUMNS = 7
_IMAGE_COLUMNS = 10
_FORMATS = ("png", "svg")
_FIELD = "#e4572e"
_UNCLIPPED = "#f3a712"


@dataclass(frozen=True, kw_only=True)
class MapPicture:
    """One feature map of a network.

    Args:
        title: the operation that computes the map.
        size: the map's shape as text, such as ``16x24x24``.
        field: the receptive field as text.
        rows: first and last image row in the receptive field of the middle position; may lie outside the image.
        columns: its first and last image column.
        activation: the map, averaged over channels, as rows of numbers.
    """

    title: str
    size: str
    field: str
    rows: tuple[int, int]
    columns: tuple[int, int]
    activation: Sequence[Sequence[float]]


def plot_maps(path: Path, *, title: str, image: Sequence[Sequence[float]], maps: Sequence[MapPicture]) -> None:
    """Draw the feature maps of a network in columns: above, the receptive field of the middle position; below, the map.

    The solid frame is the part of the receptive field inside the image, the dashed frame the whole field. The input image
    is given as rows of numbers; the name of the file ends in ``.png`` or ``.svg``.

    Raises:
        InputError: the format is another one, or the file cannot be written.
    """
    bands = -(-len(maps) // _COLUMNS)
    columns = min(len(maps), _COLUMNS)
    figure = _figure(path, title=title, size=(1.75 * columns, 3.8 * bands + 0.5))
    from matplotlib.patches import Rectangle  # noqa: PLC0415 - half a second to import

    axes = figure.subplots(2 * bands, columns, squeeze=False)
    height, width = len(image), len(image[0])
    for index, feature_map in enumerate(maps):
        band, column = divmod(index, columns)
        above, below = axes[2 * band][column], axes[2 * band + 1][column]
        above.imshow(image, cmap="gray_r", interpolation="nearest")
        first_row, last_row = feature_map.rows
        first_column, last_column = feature_map.columns
        corner, size = (first_column - 0.5, first_row - 0.5), (last_column - first_column + 1, last_row - first_row + 1)
        whole = Rectangle(corner, *size, fill=False, clip_on=False, edgecolor=_UNCLIPPED, linestyle="--", linewidth=1.2)
        above.add_patch(whole)
        top, bottom = max(first_row, 0), min(last_row, height - 1)
        left, right = max(first_column, 0), min(last_column, width - 1)
        corner, size = (left - 0.5, top - 0.5), (right - left + 1, bottom - top + 1)
        above.add_patch(Rectangle(corner, *size, fill=False, edgecolor=_FIELD, linewidth=1.8))
        # A margin for receptive fields that extend beyond the image.
        above.set_xlim(-6.5, width + 5.5)
        above.set_ylim(height + 5.5, -6.5)
        above.set_title(f"{index + 1}. {feature_map.title}", fontsize=8)
        above.set_xlabel(f"field {feature_map.field}", fontsize=8)
        below.imshow(feature_map.activation, cmap="viridis", interpolation="nearest")
        below.set_xlabel(feature_map.size, fontsize=8)
    _write(figure, path)


def plot_images(path: Path, *, title: str, images: Sequence[tuple[Sequence[Sequence[float]], str]]) -> None:
    """Draw one or more images, each given as its rows of numbers and its caption, into a ``.png`` or ``.svg`` file.

    Raises:
        InputError: the format is another one, or the file cannot be written.
    """
    columns = min(len(images), _IMAGE_COLUMNS)
    rows = -(-len(images) // columns)
    figure = _figure(path, title=title, size=(max(1.1 * columns, 4.0), 1.35 * rows + 0.6))
    axes = figure.subplots(rows, columns, squeeze=False)
    for index, (image, caption) in enumerate(images):
        axis = axes[index // columns][index % columns]
        axis.imshow(image, cmap="gray_r", interpolation="nearest")
        axis.set_title(caption, fontsize=7)
    _write(figure, path)


def _figure(path: Path, *, title: str, size: tuple[float, float]) -> Figure:
    if path.suffix.removeprefix(".") not in _FORMATS:
        endings = " or ".join("." + name for name in _FORMATS)
        raise InputError(f"expected a file name that ends in {endings}, got {path.name!r}")
    from matplotlib.figure import Figure  # noqa: PLC0415 - half a second to import

    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    figure.suptitle(title, fontsize=12)
    return figure


def _write(figure: Figure, path: Path) -> None:
    """Write the picture, without ticks and without empty axes."""
    for axis in figure.axes:
        axis.set_xticks([])
        axis.set_yticks([])
        axis.set_visible(bool(axis.images))
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix.removeprefix("."), dpi=150)
    write_whole(path, buffer.getvalue())
