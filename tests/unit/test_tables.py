"""The strict reader of tables: what it accepts, and how it names what it does not."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, ClassVar, Literal

import pytest

from harness.errors import ContractError, InputError, RecipeError
from harness.tables import Range, expect_mapping, parse_document, read_table, refuse_unknown, require


@dataclass(frozen=True, kw_only=True)
class Circle:
    """A shape of one number."""

    name: ClassVar[str] = "circle"

    radius: float

    def __post_init__(self) -> None:
        require(RecipeError, self.radius > 0, "radius > 0", radius=self.radius)


@dataclass(frozen=True, kw_only=True)
class Box:
    """A shape of two numbers."""

    name: ClassVar[str] = "box"

    sides: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A field of each type that the reader knows."""

    title: str
    shape: Circle | Box
    filled: bool = False
    count: int = 1
    price: Decimal = Decimal(0)
    colour: Literal["red", "green"] = "red"
    sizes: tuple[float, ...] = ()
    circle: Circle | None = None
    circles: tuple[Circle, ...] = ()
    words: Mapping[str, str] = field(default_factory=dict)
    lines: list[Sequence[Any]] = field(default_factory=list)
    any: Mapping[str, Any] = field(default_factory=dict)
    data: bytes = b""


GOOD: dict[str, object] = {"title": "t", "shape": {"name": "circle", "radius": 1}}


def test_each_type_is_read() -> None:
    """A table of all types becomes the dataclass; numbers keep their exact value, lists become tuples."""
    table = {
        **GOOD,
        "filled": True,
        "count": 3,
        "price": 99.4,
        "colour": "green",
        "sizes": [1, 2.5],
        "circle": {"radius": 2},
        "circles": [{"radius": 3}, {"radius": 4.0}],
        "words": {"a": "b"},
        "lines": [["x", {"y": 1}], []],
        "any": {"key": [1, {"deep": None}]},
        "data": b"bytes",
    }
    expected = Drawing(
        title="t",
        shape=Circle(radius=1.0),
        filled=True,
        count=3,
        price=Decimal("99.4"),
        colour="green",
        sizes=(1.0, 2.5),
        circle=Circle(radius=2.0),
        circles=(Circle(radius=3.0), Circle(radius=4.0)),
        words={"a": "b"},
        lines=[["x", {"y": 1}], []],
        any={"key": [1, {"deep": None}]},
        data=b"bytes",
    )
    assert expected == read_table(Drawing, table, where="here", error=InputError)


def test_the_defaults_stand_for_what_is_absent() -> None:
    """A key may be absent where its field has a default; of several dataclasses the key `name` chooses."""
    table = {"title": "t", "shape": {"name": "box", "sides": [1, 2]}, "circle": None}
    assert Drawing(title="t", shape=Box(sides=(1, 2))) == read_table(Drawing, table, where="here", error=InputError)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (3, "here: expected a table of keys and values, got 3 (int)."),
        ({1: 2}, "here: expected a table of keys and values, got {1: 2} (dict)."),
        ({}, "here: expected a value for title, shape, got none. Add the missing keys."),
        ({**GOOD, "filed": True}, "here: 'filed' is not a known key. Did you mean 'filled'? Known keys: any, circle,"),
        ({**GOOD, "zzz": True}, "here: 'zzz' is not a known key. Known keys: any, circle,"),
        ({**GOOD, "title": 3}, "here: expected title to be a text, got title=3 (int)."),
        ({**GOOD, "filled": 1}, "here: expected filled to be true or false, got filled=1 (int)."),
        ({**GOOD, "count": True}, "here: expected count to be a whole number, got count=True (bool)."),
        ({**GOOD, "count": 3.0}, "here: expected count to be a whole number, got count=3.0 (float)."),
        ({**GOOD, "price": "1"}, "here: expected price to be a number, got price='1' (str)."),
        ({**GOOD, "price": float("inf")}, "here: expected price to be a finite number, got price=inf."),
        ({**GOOD, "colour": "blue"}, "here: expected colour to be one of 'red', 'green', got colour='blue' (str)."),
        ({**GOOD, "sizes": 3}, "here: expected sizes to be a list, got sizes=3 (int)."),
        ({**GOOD, "sizes": [1, "2"]}, "here: expected sizes[1] to be a number, got sizes[1]='2' (str)."),
        ({**GOOD, "circle": 3}, "here, circle: expected a table of keys and values, got 3 (int)."),
        ({**GOOD, "circle": {"radius": -1}}, "here, circle: expected radius > 0, got radius=-1.0."),
        ({**GOOD, "circles": [{"r": 1}]}, "here, circles[0]: 'r' is not a known key."),
        ({**GOOD, "words": 3}, "here, words: expected a table of keys and values, got 3 (int)."),
        ({**GOOD, "words": {"a": 1}}, "here: expected words.a to be a text, got words.a=1 (int)."),
        ({**GOOD, "lines": "ab"}, "here: expected lines to be a list, got lines='ab' (str)."),
        ({**GOOD, "data": "b"}, "here: expected data to be a bytes, got data='b' (str)."),
        ({**GOOD, "shape": {"radius": 1}}, "here, shape: expected name to be one of box, circle, got name=None."),
        ({**GOOD, "shape": {"name": "circel"}}, "got name='circel'. Did you mean 'circle'?"),
        ({**GOOD, "shape": {"name": "box", "sides": [1]}}, "here, shape (box): expected sides to be a list of 2, got"),
    ],
)
def test_what_does_not_fit_is_named(table: object, message: str) -> None:
    """The message says the place, what was expected, the value and its type, and it comes as the error asked for."""
    with pytest.raises(ContractError) as caught:
        read_table(Drawing, table, where="here", error=ContractError)
    assert message in str(caught.value)


def test_the_parts_of_the_reader() -> None:
    """A table whose keys no dataclass holds is checked by the same rules."""
    assert {"a": 1} == expect_mapping({"a": 1}, where="here", error=InputError)
    refuse_unknown(["a"], ["a", "b"], where="here", error=InputError)
    with pytest.raises(RecipeError, match=r"here: 'c' is not a known key\. Known keys: a, b\."):
        refuse_unknown(["a", "c"], ["b", "a"], where="here", error=RecipeError)
    require(RecipeError, True, "lr > 0", lr=1)  # noqa: FBT003 - a condition
    with pytest.raises(RecipeError, match=r"^expected lr > 0, got lr=-1, name='x'\.$"):
        require(RecipeError, False, "lr > 0", lr=-1, name="x")  # noqa: FBT003 - a condition


@pytest.mark.parametrize(
    ("legal", "value", "message"),
    [
        (Range(above=0), 0, "expected x > 0, got x=0."),
        (Range(least=1), 0, "expected x >= 1, got x=0."),
        (Range(below=1), 1, "expected x < 1, got x=1."),
        (Range(most=1), 2, "expected x <= 1, got x=2."),
        (Range(least=0, below=1), 1.0, "expected 0 <= x < 1, got x=1.0."),
        (Range(above=0, most=1), 0.0, "expected 0 < x <= 1, got x=0.0."),
        (Range(least=0), (1, -1), "expected x >= 0, got x=(1, -1)."),
        (Range(most=1), math.nan, "expected x <= 1, got x=nan."),
    ],
)
def test_a_number_out_of_range_is_refused(legal: Range, value: object, message: str) -> None:
    """Open and closed bounds on either side, for a number or each of a tuple; NaN is in no range."""
    with pytest.raises(RecipeError) as caught:
        legal.require("x", value, RecipeError)
    assert message == str(caught.value)


def test_a_value_in_range_is_accepted() -> None:
    """Closed bounds include their ends, and None is not checked."""
    for value in (0, 1, (0, 0.5, 1), None):
        Range(least=0, most=1).require("x", value, RecipeError)


@pytest.mark.parametrize(
    ("form", "text", "words"),
    [
        ("JSON", '{"a": 1e999}', "here: expected a to be a finite number, got a=inf."),
        ("JSON", '{"a": [1, NaN]}', "here: expected a to be a finite number, got a=nan."),
        (
            "JSON",
            f'{{"a": {"9" * 5000}}}',
            "here: expected numbers of at most 64 bits, got a number of more than 4,000 digits.",
        ),
        ("JSON", f'{{"a": {2**63}}}', "here: expected a to have at most 64 bits, got a number of 64 bits."),
        ("JSON", "[" * 50 + "]" * 50, "here: expected lists and tables nested at most 32 deep, got deeper nesting."),
        ("JSON", "[" * 100_000, "here: expected lists and tables nested at most 32 deep, got deeper nesting."),
        ("JSON", "{", "here is not valid JSON: "),
        ("TOML", "a = 1e999", "here: expected a to be a finite number, got a=inf."),
        ("TOML", "a = 0x" + "f" * 5000, "here: expected a to have at most 64 bits, got a number of 20,000 bits."),
        (
            "TOML",
            "a = " + "9" * 5000,
            "here: expected numbers of at most 64 bits, got a number of more than 4,000 digits.",
        ),
        (
            "TOML",
            "a = " + "[" * 5000 + "]" * 5000,
            "here: expected lists and tables nested at most 32 deep, got deeper nesting.",
        ),
        (
            "TOML",
            ".".join("a" * 40) + " = 1",
            "here: expected lists and tables nested at most 32 deep, got deeper nesting.",
        ),
        ("TOML", "a = = 1", "here is not valid TOML: "),
    ],
)
def test_what_no_document_should_hold_is_named(form: Literal["JSON", "TOML"], text: str, words: str) -> None:
    """Numbers that overflow, nesting without end and malformed text are errors of the reader's class."""
    with pytest.raises(RecipeError) as caught:
        parse_document(text.encode(), form, where="here", error=RecipeError)
    assert str(caught.value).startswith(words)


def test_a_document_is_plain_data() -> None:
    """What is in range is read as it is, behind a byte order mark, too."""
    assert {"a": [2**63 - 1, -0.5, "x"]} == parse_document(
        b'\xef\xbb\xbf{"a": [9223372036854775807, -0.5, "x"]}', "JSON", where="here", error=InputError
    )


def test_the_values_of_a_document_are_limited() -> None:
    """A document of many small values, which would take many times its size in memory, is refused before it is parsed."""
    assert [1, [], {}] == parse_document(b"[1,[],{}]", "JSON", where="here", error=InputError, most_values=5)
    with pytest.raises(RecipeError, match=r"here: expected a document of at most 4 values\. Write less\."):
        parse_document(b"[1,[],{}]", "JSON", where="here", error=RecipeError, most_values=4)
