"""HTML pages: one file, without scripts, that loads nothing from elsewhere.

A page is plain data: a title, a status and sections. The template ``templates/page.html`` draws it. All texts are made
harmless and are escaped, whatever they contain.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any, ClassVar

from harness.findings import Finding, Status
from harness.reporting import charts
from harness.reporting.charts import Dot, ErrorScale, LinearScale, Tick
from harness.reporting.plain import harmless

if TYPE_CHECKING:
    from jinja2 import Template

_TEMPLATES = resources.files("harness.reporting") / "templates"


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Names with their values, such as the environment."""

    kind: ClassVar[str] = "facts"
    title: str
    facts: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Paragraphs:
    """Sentences, a paragraph each."""

    kind: ClassVar[str] = "paragraphs"
    title: str
    texts: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Findings:
    """Findings with evidence and hint; ``points`` has a text for each finding, such as ``2 of 4 points``, or is empty."""

    kind: ClassVar[str] = "findings"
    title: str
    findings: tuple[Finding, ...]
    points: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table; the columns whose index is in ``right`` hold numbers."""

    kind: ClassVar[str] = "table"
    title: str
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    right: tuple[int, ...] = ()
    caption: str = ""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A row of a layer table; ``field`` is the receptive field in pixels, None if the layer has none."""

    name: str
    operation: str
    output: str
    parameters: int
    field: int | None


@dataclass(frozen=True, kw_only=True)
class Layers:
    """The layers of a network beside a picture of their receptive fields on a square image of ``image_size`` pixels a side."""

    kind: ClassVar[str] = "layers"
    title: str
    layers: tuple[Layer, ...]
    image_size: int

    @property
    def sizes(self) -> tuple[int, ...]:
        """The different receptive fields, from large to small, so that small ones are drawn above large ones."""
        return tuple(sorted({layer.field for layer in self.layers if layer.field}, reverse=True))

    @property
    def extent(self) -> int:
        """The side of the picture in pixels of the image: the largest receptive field or the image, and a margin."""
        return max(self.image_size, *self.sizes, 0) + 4


@dataclass(frozen=True, kw_only=True)
class Curve:
    """An accuracy in percent after each epoch; curves of training images are dashed."""

    name: str
    accuracies: tuple[float, ...]
    is_training: bool = False


@dataclass(frozen=True, kw_only=True)
class Curves:
    """Accuracies by epoch against the required one, in percent; the last ``counted`` epochs are counted, or the best if None."""

    kind: ClassVar[str] = "curves"
    title: str
    caption: str
    curves: tuple[Curve, ...]
    required: float
    counted: int | None

    @property
    def epochs(self) -> int:
        """The number of epochs of the longest curve."""
        return max((len(curve.accuracies) for curve in self.curves), default=0)

    @property
    def scale(self) -> ErrorScale:
        """The vertical axis."""
        return ErrorScale.around([self.required, *(one for curve in self.curves for one in curve.accuracies)])

    @property
    def ticks(self) -> list[Tick]:
        """The marks of the horizontal axis."""
        return charts.epoch_ticks(self.epochs)

    @property
    def band(self) -> tuple[float, float] | None:
        """Left and right edge of the counted epochs."""
        if self.counted is None or self.epochs <= 1:
            return None
        half = (charts.place(2, 1, self.epochs) - charts.place(1, 1, self.epochs)) / 2
        left = charts.place(max(self.epochs - self.counted + 1, 1), 1, self.epochs) - half
        return max(left, charts.LEFT), charts.WIDTH - charts.RIGHT

    def points(self, curve: Curve) -> tuple[tuple[float, float], ...]:
        """Return the coordinates of a curve."""
        scale = self.scale
        return tuple(
            (charts.place(epoch, 1, self.epochs), scale.y(accuracy))
            for epoch, accuracy in enumerate(curve.accuracies, start=1)
        )


@dataclass(frozen=True, kw_only=True)
class Column:
    """Values above one place of the horizontal axis; ``is_good`` chooses how they are marked."""

    name: str
    values: tuple[float, ...]
    is_good: bool = True


@dataclass(frozen=True, kw_only=True)
class Dots:
    """Columns of dots, such as the counted epochs of each seed, with a line and a band to compare them with.

    ``legend`` says what good and bad columns are.
    """

    kind: ClassVar[str] = "dots"
    title: str
    caption: str
    labels: tuple[str, str]
    columns: tuple[Column, ...]
    line: tuple[str, float]
    band: tuple[float, float] | None = None
    legend: tuple[str, str] | None = None

    @property
    def scale(self) -> LinearScale:
        """The vertical axis."""
        return LinearScale.around(
            [self.line[1], *(self.band or ()), *(one for column in self.columns for one in column.values)]
        )

    @property
    def ticks(self) -> list[Tick]:
        """The marks of the horizontal axis: at most a dozen columns."""
        return charts.column_ticks([column.name for column in self.columns], most=12)

    @property
    def dots(self) -> list[Dot]:
        """All dots."""
        scale = self.scale
        return [
            Dot(x=charts.column(index, len(self.columns)), y=scale.y(value), is_good=column.is_good)
            for index, column in enumerate(self.columns)
            for value in column.values
        ]


@dataclass(frozen=True, kw_only=True)
class Bars:
    """Bars with a label and a count each, such as how many submissions have how many points."""

    kind: ClassVar[str] = "bars"
    title: str
    caption: str
    labels: tuple[str, str]
    bars: tuple[tuple[str, int], ...]

    @property
    def scale(self) -> LinearScale:
        """The vertical axis, from 0."""
        return LinearScale(
            lowest=0, highest=1.08 * max((count for _, count in self.bars), default=0) or 1, least_step=1
        )

    @property
    def ticks(self) -> list[Tick]:
        """The marks of the horizontal axis: at most seven bars."""
        return charts.column_ticks([label for label, _ in self.bars], most=7)


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """A confusion matrix: ``counts[label][predicted]`` images."""

    kind: ClassVar[str] = "confusion"
    title: str
    caption: str
    counts: tuple[tuple[int, ...], ...]

    def heat(self, label: int, predicted: int) -> int:
        """Return the shade of a cell, 0 to 5: on the diagonal by the share of the class, elsewhere by the largest mistake."""
        count = self.counts[label][predicted]
        others = [
            counts[column] for row, counts in enumerate(self.counts) for column in range(len(counts)) if row != column
        ]
        most = sum(self.counts[label]) if label == predicted else max(others, default=0)
        return -(-5 * count // most) if most else 0


@dataclass(frozen=True, kw_only=True)
class Image:
    """A picture of grey values, 0 to 255, row by row in ``width`` columns, with a caption."""

    pixels: bytes
    width: int
    caption: str

    @property
    def address(self) -> str:
        """The picture as a PNG file in a data URL."""
        rows = [self.pixels[start : start + self.width] for start in range(0, len(self.pixels), self.width)]
        header = struct.pack(">IIBBBBB", self.width, len(rows), 8, 0, 0, 0, 0)
        chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows), 9)), (b"IEND", b""))
        content = b"\x89PNG\r\n\x1a\n" + b"".join(
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
            for name, data in chunks
        )
        return f"data:image/png;base64,{base64.b64encode(content).decode()}"


@dataclass(frozen=True, kw_only=True)
class Images:
    """Pictures with captions, such as wrongly predicted images."""

    kind: ClassVar[str] = "images"
    title: str
    caption: str
    images: tuple[Image, ...]


Section = Facts | Paragraphs | Findings | Table | Layers | Curves | Dots | Bars | Confusion | Images


@dataclass(frozen=True, kw_only=True)
class Page:
    """A page.

    Args:
        title: what the page is about, such as the name of the model.
        status: the overall status; None if nothing was judged.
        statement: one sentence on the result; ``figures`` are the numbers beside it, each with its name.
        sections: the content, in order.
    """

    title: str
    status: Status | None
    statement: str
    figures: tuple[tuple[str, str], ...] = ()
    sections: Sequence[Section] = ()


def page_html(page: Page) -> bytes:
    """Return the page as an HTML file."""
    style = (_TEMPLATES / "page.css").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return _template().render(page=page, style=style, style_digest=digest, charts=charts).encode()


@functools.cache
def _template() -> Template:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # noqa: PLC0415 - only pages need it
    from markupsafe import Markup  # noqa: PLC0415 - as jinja2

    def plain(value: Any) -> Any:  # noqa: ANN401 - what a template prints
        return harmless(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    environment = Environment(
        loader=FileSystemLoader(str(_TEMPLATES)),
        autoescape=True,
        finalize=plain,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["harmless"] = harmless
    environment.filters["markup"] = Markup
    return environment.get_template("page.html")
