"""Plots of feature maps, images, runs and curves, written to image files."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
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
_PASSED, _FAILED, _UNDECIDED = "#2a9d8f", "#c1121f", "#8d99ae"


@dataclass(frozen=True, kw_only=True)
class MapPicture:
    """One feature map of a network, as input of `plot_maps`.

    Args:
        title: the operation that computes the map.
        size: the shape of the map as text, such as ``16x24x24``.
        field: the size of the receptive field as text.
        rows: first and last image row in the receptive field of the map's middle position; may lie outside the image.
        columns: first and last image column in the same receptive field.
        activation: the map, averaged over channels, as rows of numbers.
    """

    title: str
    size: str
    field: str
    rows: tuple[int, int]
    columns: tuple[int, int]
    activation: Sequence[Sequence[float]]


def plot_maps(path: Path, *, title: str, image: Sequence[Sequence[float]], maps: Sequence[MapPicture]) -> None:
    """Draw the feature maps of a network: above, the receptive field of each map's middle position; below, the map itself.

    The solid frame is the part of the receptive field inside the image, the dashed frame the whole receptive field. The
    input image is given as rows of numbers; the name of the file ends in ``.png`` or ``.svg``.

    Raises:
        InputError: the file name has another ending, or the file cannot be written.
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
    """Draw one or more images, each given as rows of numbers and a caption, into a ``.png`` or ``.svg`` file.

    Raises:
        InputError: the file name has another ending, or the file cannot be written.
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


def plot_runs(
    path: Path,
    *,
    title: str,
    runs: Sequence[Sequence[int]],
    passed: Sequence[bool],
    required: int,
    verdicts: Sequence[Sequence[str | None]],
) -> None:
    """Plot the runs of a certificate in order: correct predictions in the counted epochs above, failures so far below.

    ``runs`` has the numbers of correct predictions in the counted epochs of each run, ``passed`` says which runs
    passed, and ``required`` is the number of correct predictions that an epoch needs. ``verdicts[n - 1][f]`` is the
    verdict of the pass-rate test after n runs, f of which failed. The name of the file ends in ``.png`` or ``.svg``.

    Raises:
        InputError: the file name has another ending, or the file cannot be written.
    """
    figure = _figure(path, title=title, size=(max(0.16 * len(verdicts), 6.0), 6.0))
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    for number, (counted, good) in enumerate(zip(runs, passed, strict=True), start=1):
        colour = _PASSED if good else _FAILED
        above.plot([number] * len(counted), counted, marker="o", markersize=3, linewidth=1, color=colour)
    above.axhline(required, color="black", linewidth=1, linestyle="--", label=f"required: {required:,}")
    above.set_ylabel("correct, counted epochs")
    failures = [sum(not good for good in passed[:number]) for number in range(len(passed) + 1)]
    below.step(range(len(failures)), failures, where="post", color="black", linewidth=1.5)
    for verdict, colour in (("pass", _PASSED), ("fail", _FAILED), ("inconclusive", _UNDECIDED)):
        points = [
            (number, count)
            for number, row in enumerate(verdicts, start=1)
            for count, found in enumerate(row)
            if found == verdict and count <= max(failures[-1] + 3, 8)
        ]
        if points:
            below.scatter(
                *zip(*points, strict=True), s=8, marker="s", color=colour, alpha=0.35, label=verdict, linewidths=0
            )
    below.set_xlim(0, len(verdicts) + 1)
    for axis in (above, below):
        axis.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, fontsize=8, frameon=False)  # hides no run
    below.set_xlabel("runs, in declared order")
    below.set_ylabel("failures")
    below.yaxis.get_major_locator().set_params(integer=True)
    _save(figure, path)


def plot_curves(
    path: Path, *, title: str, labels: tuple[str, str], places: Sequence[float], curves: Mapping[str, Sequence[float]]
) -> None:
    """Plot up to four named curves over the same x values into a ``.png`` or ``.svg`` file.

    ``places`` are the x values, ``curves`` maps the name of each curve to the y values, and ``labels`` are the labels
    of the x and the y axis.

    Raises:
        InputError: the file name has another ending, or the file cannot be written.
    """
    figure = _figure(path, title=title, size=(7.0, 4.5))
    axis = figure.subplots()
    for (name, values), style in zip(curves.items(), ("-", "--", "-.", ":"), strict=False):
        axis.plot(places, values, style, label=name)
    axis.set_xlabel(labels[0])
    axis.set_ylabel(labels[1])
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    _save(figure, path)


def _figure(path: Path, *, title: str, size: tuple[float, float]) -> Figure:
    if path.suffix.removeprefix(".") not in _FORMATS:
        endings = " or ".join("." + name for name in _FORMATS)
        raise InputError(f"expected a file name that ends in {endings}, got {path.name!r}")
    from matplotlib.figure import Figure  # noqa: PLC0415 - half a second to import

    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    figure.suptitle(title, fontsize=12, wrap=True)
    return figure


def _write(figure: Figure, path: Path) -> None:
    """Write a figure of images to a file, without ticks, and hide axes that have no image."""
    for axis in figure.axes:
        axis.set_xticks([])
        axis.set_yticks([])
        axis.set_visible(bool(axis.images))
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix.removeprefix("."), dpi=150)
    write_whole(path, buffer.getvalue())
