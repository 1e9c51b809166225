from __future__ import annotations

import base64
import hashlib
import io
import re

import pytest
from PIL import Image as Pillow

from harness.findings import Finding, Status
from harness.reporting import (
    Bars,
    Column,
    Confusion,
    Curve,
    Curves,
    Dots,
    Facts,
    Findings,
    Image,
    Images,
    Layer,
    Layers,
    Page,
    Paragraphs,
    Section,
    Table,
    page_html,
)
from harness.reporting.charts import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    ErrorScale,
    LinearScale,
    column_ticks,
    epoch_ticks,
)
from tests.pages import Outline
from tests.verdicts import HOSTILE


def sections(text: str) -> tuple[Section, ...]:
    """One section of each kind, with the same text everywhere."""
    finding = Finding(
        requirement=text, status=Status.FAIL, expected=text, observed=text, evidence=(text, text), hint=text
    )
    return (
        Paragraphs(title=text, texts=(text, text)),
        Facts(title=text, facts=((text, text),)),
        Findings(title=text, findings=(finding,), points=(text,)),
        Table(title=text, headers=(text, text), rows=((text, text),), right=(1,), caption=text),
        Layers(
            title=text,
            image_size=28,
            layers=(Layer(name=text, operation=text, output=text, parameters=1, field=30),),
        ),
        Curves(title=text, caption=text, curves=(Curve(name=text, accuracies=(98.0, 99.5)),), required=99.4, counted=1),
        Dots(
            title=text,
            caption=text,
            labels=(text, text),
            columns=(Column(name=text, values=(1.0, 2.0)), Column(name=text, values=(3.0,), is_good=False)),
            line=(text, 2.0),
            band=(1.0, 2.5),
            legend=(text, text),
        ),
        Bars(title=text, caption=text, labels=(text, text), bars=((text, 3), (text, 0))),
        Confusion(title=text, caption=text, counts=((5, 1), (0, 6))),
        Images(title=text, caption=text, images=(Image(pixels=bytes(range(6)), width=3, caption=text),)),
    )


def page(text: str, status: Status | None = Status.FAIL) -> bytes:
    """A page with a section of each kind."""
    return page_html(Page(title=text, status=status, statement=text, figures=((text, text),), sections=sections(text)))


def test_a_page_is_sound_and_needs_nothing_else() -> None:
    """Every element is closed; there is no script, no link, and no address but those of its own pictures."""
    outline = Outline(page("plain"))

    assert [] == outline.unclosed
    assert not {"script", "link", "iframe", "a", "form", "object"} & {tag for tag, _ in outline.elements}
    attributes = [item for _, names in outline.elements for item in names.items()]
    assert not [name for name, _ in attributes if name.startswith("on") or name in ("href", "style", "action")]
    assert ["data:image/png;base64,"] == [value[:22] for name, value in attributes if name == "src"]
    assert not re.search(rb"url\(|@import|https?:", page("plain"))


def test_the_policy_allows_the_style_of_the_page_and_nothing_else() -> None:
    """The Content-Security-Policy names the digest of the style element, so that no other style and no script can run."""
    content = page("plain")
    style = content.partition(b"<style>")[2].partition(b"</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style).digest()).decode()
    (policy,) = (one["content"] for one in Outline(content).all("meta") if "http-equiv" in one)

    assert (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'" == policy
    )


def test_a_page_can_be_read_without_seeing_it() -> None:
    """One main heading, a heading for each section, header cells with a scope, and words for every picture."""
    outline = Outline(page("plain"))

    assert [{}] == outline.all("h1")
    assert 10 == len(outline.all("h2")) == len(outline.all("section"))
    assert all(cell.get("scope") in ("col", "row") for cell in outline.all("th"))
    assert all(image["alt"] for image in outline.all("img"))
    drawings = [one for one in outline.all("svg") if "aria-hidden" not in one]
    assert all(one["role"] == "img" and one["aria-label"] for one in drawings)
    assert "en" == outline.all("html")[0]["lang"]


@pytest.mark.parametrize("text", HOSTILE)
def test_no_element_or_attribute_comes_from_a_text(text: str) -> None:
    """A page with a hostile text has the elements and attributes of one with a plain text, in the same order."""
    hostile, plain = Outline(page(text)), Outline(page("plain"))

    assert plain.shape == hostile.shape
    assert [] == hostile.unclosed
    assert not re.search("[\u202e\x00\x1b\ud800]|::|49", hostile.text)


@pytest.mark.parametrize("status", [*Status, None])
def test_every_status_has_a_badge(status: Status | None) -> None:
    """The header says the status in words; a page that judges nothing has none."""
    badges = [one for one in Outline(page("plain", status)).all("span") if one["class"].startswith("badge")]

    assert ([f"badge {status}"] if status else []) + ["badge fail"] == [one["class"] for one in badges]


def test_an_image_is_a_png_of_its_pixels() -> None:
    """The data URL holds the grey values, row by row."""
    address = Image(pixels=bytes(range(0, 240, 40)), width=3, caption="").address
    picture = Pillow.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))

    assert ("PNG", "L", (3, 2)) == (picture.format, picture.mode, picture.size)
    assert bytes(range(0, 240, 40)) == picture.tobytes()


def test_accuracies_are_drawn_by_the_logarithm_of_the_error() -> None:
    """From 90 to 99 % is as far as from 99 to 99.9 %; the ticks are at round errors; all errors stay inside."""
    scale = ErrorScale(most=100, least=0.01)

    assert scale.y(90) - scale.y(99) == pytest.approx(scale.y(99) - scale.y(99.9), abs=0.2)
    assert (HEIGHT - BOTTOM, TOP) == (scale.y(0), scale.y(100))
    assert ["90 %", "95 %", "98 %"] == [tick.label for tick in ErrorScale(most=12, least=2).ticks]
    assert ["10 %", "50 %", "80 %", "90 %", "95 %", "98 %"] == [
        tick.label for tick in ErrorScale(most=100, least=2).ticks
    ]
    assert ErrorScale.around([]).ticks


def test_the_counted_epochs_are_shaded() -> None:
    """Ten epochs, the last three counted: the band begins between the seventh and the eighth."""
    curves = Curves(title="", caption="", curves=(Curve(name="", accuracies=(99.0,) * 10),), required=99.4, counted=3)
    epochs = dict(zip(range(10, 0, -1), [tick.at for tick in curves.ticks], strict=True))

    assert curves.band is not None
    assert curves.band[0] == pytest.approx((epochs[7] + epochs[8]) / 2, abs=0.1)
    assert WIDTH - RIGHT == curves.band[1]
    assert (LEFT, WIDTH - RIGHT) == (epochs[1], epochs[10])
    assert ["100", "91", "82", "73", "64", "55", "46", "37", "28", "19", "10", "1"] == [
        tick.label for tick in epoch_ticks(100)
    ]


def test_numbers_get_round_ticks() -> None:
    """Steps are 1, 2 or 5 times a power of ten, and never below the least step."""
    assert ["9,900", "9,920", "9,940", "9,960"] == [tick.label for tick in LinearScale(lowest=9895, highest=9975).ticks]
    assert ["0", "1", "2"] == [tick.label for tick in LinearScale(lowest=0, highest=2.2, least_step=1).ticks]
    assert ["-0.5", "0", "0.5"] == [tick.label for tick in LinearScale(lowest=-0.9, highest=0.9, least_step=0.5).ticks]


def test_columns_are_named_as_far_as_there_is_room() -> None:
    """Every column has a tick in its middle, or every second one, and so on; the epochs count from the last."""
    ticks = column_ticks(["a", "b", "c", "d"], most=2)

    assert ["a", "c"] == [tick.label for tick in ticks]
    assert LEFT + (WIDTH - LEFT - RIGHT) / 8 == pytest.approx(ticks[0].at, abs=0.1)
    assert [] == column_ticks([], most=2) == epoch_ticks(0)


def test_mistakes_are_shaded_by_the_largest_mistake() -> None:
    """On the diagonal the share of the class counts, elsewhere the share of the largest mistake; zeros have no shade."""
    confusion = Confusion(title="", caption="", counts=((8, 2, 0), (0, 10, 0), (10, 0, 0)))

    assert [[4, 1, 0], [0, 5, 0], [5, 0, 0]] == [
        [confusion.heat(row, column) for column in range(3)] for row in range(3)
    ]


def test_receptive_fields_are_drawn_from_large_to_small() -> None:
    """Each size once; the picture has room for a field beyond the image."""
    layers = Layers(
        title="",
        image_size=28,
        layers=tuple(Layer(name="", operation="", output="", parameters=0, field=size) for size in (3, 3, 36, None, 5)),
    )

    assert (36, 5, 3) == layers.sizes
    assert 40 == layers.extent


def luminance(colour: str) -> float:
    """The relative luminance of a colour such as #0b5cad, as WCAG 2 defines it."""
    shares = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    red, green, blue = (one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in shares)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", [0, 1])
def test_text_has_the_contrast_of_wcag_aa(scheme: int) -> None:
    """Every colour of text is at least 4.5 times as light, or as dark, as the card and the page, in both colour schemes."""
    style = page("plain").decode().partition("<style>")[2]
    colours = dict(re.findall(r"--(\w+): (#\w{6})", re.findall(r":root \{(.*?)\}", style, re.DOTALL)[scheme]))
    grounds = [colours.pop(name) for name in ("card", "page")]
    names = [name for name in colours if name not in ("rule", "faint")]

    def contrast(one: str, other: str) -> float:
        dark, light = sorted((luminance(one), luminance(other)))
        return (light + 0.05) / (dark + 0.05)

    assert 13 == len(names)
    assert [] == [(name, ground) for name in names for ground in grounds if contrast(colours[name], ground) < 4.5]
